"""How long a large constitution takes to load: plain, extended, with its lock, and compared with another.

    python benchmarks/validate_speed.py [--principles 2000]

Loading 2,000 principles is to stay well under 2 s.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from constitutional.constitution import load_constitution
from constitutional.constitution.diff import diff
from constitutional.constitution.lock import check_lock, lock

HEAD = "id: {0}\nversion: 1.0.0\ntitle: Large\n"
PRINCIPLE = """\
  - id: p{0}
    version: 1.0.0
    title: Principle number {0}
    critique_request: Say in one or two sentences what is wrong with the last answer in way {0}.
    revision_request: Write the answer again so that nothing is wrong with it in way {0}.
    comparison_request: Which answer is better in way {0}?
    tags: [large, way-{0}]
"""


def timed(what: str, act: Callable[[], object]) -> None:
    """Prints the best of three."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        act()
        seconds.append(time.perf_counter() - start)
    print(f"{what:<44} {min(seconds):6.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--principles", type=int, default=2000)
    count = parser.parse_args().principles
    with tempfile.TemporaryDirectory() as folder:
        large, mine = Path(folder) / "large.yaml", Path(folder) / "mine.yaml"
        large.write_text(HEAD.format("large") + "principles:\n" + "".join(PRINCIPLE.format(i) for i in range(count)))
        edits = "".join(f"  p{i}: {{weight: 2}}\n" for i in range(0, count, 2))
        mine.write_text(HEAD.format("mine") + "extends: large.yaml\noverride:\n" + edits)
        print(f"{count} principles, {large.stat().st_size / 1000:.0f} kB of YAML")
        timed("load", lambda: load_constitution(str(large)))
        timed(f"load, extended, {len(range(0, count, 2))} of them overridden", lambda: load_constitution(str(mine)))
        timed("lock", lambda: lock(str(large)))
        timed("load and compare with the lock", lambda: check_lock(str(large)))
        old, new = load_constitution(str(large)), load_constitution(str(mine))
        timed("diff of two loaded ones", lambda: diff(old, new))


if __name__ == "__main__":
    main()
