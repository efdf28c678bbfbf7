"""How well the refusal detector agrees with the two human annotators of XSTest (Röttger et al. 2024).

The rules were written while reading the first model's answers and half of the second model's. The held-out half
(prompts whose id hashes to an odd number) was never read. Its numbers were printed twice: a first version of the rules
scored 91.7 % (refusal or compliance; recall of refusals 63 %) and was then widened while reading other data.

    python benchmarks/refusal_detector.py [--errors]
"""

from __future__ import annotations

import gzip
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from constitutional.evaluation.refusal import classify
from constitutional.statistics import wilson

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
COMPLETIONS = DATA / "xstest" / "completions_gpt4_mistralinstruct.jsonl.gz"
PHRASES = DATA / "refusal" / "refusal_phrase_lists.json"
LABELS = ("compliance", "refusal", "partial")
TRUTH = {"1_full_compliance": "compliance", "2_full_refusal": "refusal", "3_partial_refusal": "partial"}

Row = dict[str, str]


def load() -> dict[str, list[Row]]:
    """The completions, by the part they play."""
    parts: dict[str, list[Row]] = {"tuning": [], "held out": []}
    with gzip.open(COMPLETIONS, "rt", encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            odd = int(hashlib.sha256(row["id"].encode()).hexdigest(), 16) % 2
            parts["held out" if odd and row["model"] == "mistralinstruct" else "tuning"].append(row)
    return parts


def prefix_baseline(prefixes: list[str]) -> Callable[[str, str], str]:
    """The usual detector: a refusal begins with one of these strings."""
    starts = tuple(p.lower() for p in prefixes)
    return lambda _prompt, answer: "refusal" if answer.strip().lower().startswith(starts) else "compliance"


def substring_baseline(phrases: list[str]) -> Callable[[str, str], str]:
    """The other usual detector: a refusal contains one of these strings."""
    return lambda _prompt, answer: "refusal" if any(p.lower() in answer.lower() for p in phrases) else "compliance"


def baselines() -> dict[str, Callable[[str, str], str]]:
    """String lists of published evaluators; none where the lists are not here."""
    if not PHRASES.exists():
        return {}
    lists = json.loads(PHRASES.read_text("utf-8"))
    return {
        "prefix list": prefix_baseline(lists["xstest_strmatch_prefixes"]),
        "phrase list": substring_baseline(lists["garak_MitigationBypass_1"]),
    }


def confusion(rows: list[Row], detect: Callable[[str, str], str]) -> Counter[tuple[str, str]]:
    """Counts by (human label, detector's label)."""
    return Counter((TRUTH[r["final_label"]], detect(r["prompt"], r["completion"])) for r in rows)


def scores(table: Counter[tuple[str, str]]) -> dict[str, tuple[int, int]]:
    """Agreements and number of answers, for each way to score the table."""

    def count(hit: Callable[[str, str], bool], among: Callable[[str], bool]) -> tuple[int, int]:
        cells = {(truth, label): k for (truth, label), k in table.items() if among(truth)}
        return sum(k for (truth, label), k in cells.items() if hit(truth, label)), sum(cells.values())

    def complied(label: str) -> bool:
        return label == "compliance"

    return {
        "refusal or compliance (partial counted wrong)": count(lambda t, d: t == d, lambda t: t != "partial"),
        "complied or not": count(lambda t, d: complied(t) == complied(d), lambda _: True),
        "three ways": count(lambda t, d: t == d, lambda _: True),
        "recall of refusals (refusal or partial)": count(lambda _, d: not complied(d), lambda t: t == "refusal"),
        "recall of compliance": count(lambda _, d: complied(d), complied),
    }


def shares(table: Counter[tuple[str, str]]) -> dict[str, float]:
    """`scores` as shares."""
    return {what: hits / n for what, (hits, n) in scores(table).items()}


def show(name: str, rows: list[Row], detect: Callable[[str, str], str]) -> None:
    table = confusion(rows, detect)
    print(f"\n{name}, n = {len(rows)}")
    for what, (hits, n) in scores(table).items():
        interval = wilson(hits, n)
        print(f"  {what:46} {hits:4}/{n:<4} {hits / max(n, 1):6.1%}  [{interval.low:.1%}, {interval.high:.1%}]")
    print(f"  {'human, down; detector, across':32}" + "".join(f"{d:>12}" for d in LABELS))
    for truth in LABELS:
        print(f"  {truth:32}" + "".join(f"{table[truth, d]:12}" for d in LABELS))


def main() -> None:
    if not COMPLETIONS.exists():
        print(f"skipped: no XSTest completions at {COMPLETIONS}")
        return
    parts = load()
    detectors = {"rules": classify, **baselines()}
    for part, rows in parts.items():
        for name, detect in detectors.items():
            show(f"{name}, {part}", rows, detect)
    if "--errors" in sys.argv:
        for row in parts["tuning"]:
            label = classify(row["prompt"], row["completion"])
            if label != TRUTH[row["final_label"]]:
                print(f"\n[{TRUTH[row['final_label']]} → {label}] {row['prompt']}\n    {row['completion'][:500]!r}")


if __name__ == "__main__":
    main()
