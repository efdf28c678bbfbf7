"""Seconds to lint a large constitution, rule by rule, and the pairs compared in the search for near-duplicates.

    python benchmarks/lint_speed.py [--principles 2000]

The principles are made from the shipped ones: their requests with words drawn from all of them put in, so that they
share frame and vocabulary as a real constitution's do, and every twentieth nearly repeats an earlier one.
"""

from __future__ import annotations

import argparse
import random
import time

from constitutional.constitution import load_constitution
from constitutional.constitution.lint import CHECKS, lint
from constitutional.constitution.similarity import near_duplicates
from constitutional.principles import Constitution, Principle

REQUESTS = ("critique_request", "revision_request", "comparison_request")


def made(n: int, seed: int = 0) -> Constitution:
    rng = random.Random(seed)
    shipped = load_constitution("harmlessness").principles
    words = sorted({word for p in shipped for e in p.examples for word in e.worse.split() if len(word) > 4})
    principles: list[Principle] = []
    for index in range(n):
        if index % 20 == 19:
            source, changes = rng.choice(principles), 1
        else:
            source, changes = shipped[index % len(shipped)], 8
        requests = {name: _changed(getattr(source, name), changes, words, rng) for name in REQUESTS}
        principles.append(source.model_copy(update={"id": f"p{index}", **requests}))
    return Constitution(id="made", version="1.0.0", title="Made", principles=tuple(principles))


def _changed(text: str, changes: int, words: list[str], rng: random.Random) -> str:
    found = text.split()
    for place in rng.sample(range(3, len(found)), min(changes, len(found) - 3)):
        found[place] = rng.choice(words)
    return " ".join(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--principles", type=int, default=2000)
    arguments = parser.parse_args()
    constitution = made(arguments.principles)
    started = time.perf_counter()
    findings = lint(constitution)
    print(f"{len(constitution.principles)} principles: {time.perf_counter() - started:.2f} s, {len(findings)} findings")
    for rule, check in CHECKS.items():
        started = time.perf_counter()
        count = len(list(check(constitution, constitution.principles)))
        print(f"  {rule:18} {time.perf_counter() - started:6.2f} s  {count:5} findings")
    texts = [p.comparison_request or "" for p in constitution.principles]
    search = near_duplicates(texts)
    pairs = len(texts) * (len(texts) - 1) // 2
    print(f"comparison requests: {search.compared} of {pairs} pairs compared ({search.compared / max(pairs, 1):.2%})")


if __name__ == "__main__":
    main()
