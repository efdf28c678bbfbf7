"""Freed memory is used again, and given back when asked: counted in page faults and resident pages, not in seconds."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import numpy, psutil
from constitutional.backends.memory import keep_freed_memory, release_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    blocks = [numpy.ones(2_000_000) for _ in range(10)]
    del blocks
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
held = psutil.Process().memory_info().rss
release_memory()
print(faults, held, psutil.Process().memory_info().rss)
"""


def measured(mode: str) -> tuple[int, int, int]:
    done = subprocess.run([sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=True)
    faults, held, after = map(int, done.stdout.split())
    return faults, held, after


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc")
def test_kept_memory_is_faulted_in_once_and_given_back() -> None:
    plain, _, _ = measured("plain")
    kept, held, after = measured("keep")
    assert kept < plain / 4
    assert held - after > 100_000_000
