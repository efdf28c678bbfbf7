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


AGAIN = """
import gc, sys, weakref
import numpy
from constitutional.backends.memory import release_memory

class Model:
    def __init__(self):
        self.weights, self.me = numpy.ones(12_500_000), self

gc.disable()
large = numpy.ones(50_000_000)
release_memory()
del large
for _ in range(3):  # a model is let go of, another one is made, as from step to step
    model = Model()
    gone = weakref.ref(model)
    del model
    release_memory()
    print(gone() is None)
"""


def test_every_dropped_model_is_let_go_of_not_only_the_first() -> None:
    done = subprocess.run([sys.executable, "-c", AGAIN], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"] * 3


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
