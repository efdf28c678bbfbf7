"""The lint rules about examples: whether there are any for the gate, and whether their lengths give the answer away."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from constitutional.constitution.rules import Finding
from constitutional.principles import Constitution, Example, Principle
from constitutional.statistics import wilson

CHANCE = 0.5
MIN_EXAMPLES = 6
"""With fewer, a fair author has them all on one side by accident too often: of 4 in 1 of 8 cases, of 6 in 1 of 32."""
SIMILAR = 1.1
"""Lengths within a tenth of each other give nothing away."""


def without_examples(constitution: Constitution, listening: Sequence[Principle]) -> Iterator[Finding]:
    """Principles a judge is asked about and the gate cannot measure it on; told once when no principle has examples."""
    lacking = [p for p in listening if p.comparison_request and "judge" in p.phases and not _gate(p)]
    if len(lacking) > 1 and not any(p.examples for p in constitution.principles):
        message = "no principle has examples: the gate cannot measure a judge with this constitution"
        yield Finding(rule="no-examples", principle=None, field="principles", message=message)
        return
    for principle in lacking:
        which = "no example with `split: gate`" if principle.examples else "no examples"
        message = f"{which}: the gate cannot measure a judge under it"
        yield Finding(rule="no-examples", principle=principle.id, field="examples", message=message)


def length_leaks(_: Constitution, listening: Sequence[Principle]) -> Iterator[Finding]:
    """Examples on which "the longer answer wins" (or "the shorter") passes the gate: one principle's, or all together.

    Passing is what the gate calls it: the lower end of the 95 % interval (Wilson) of the share lies above one half. Of
    six examples it takes all, of ten nine. Answers of similar length count for neither side.
    """
    gate = [example for principle in listening if principle.comparison_request for example in _gate(principle)]
    carriers = sum(bool(principle.examples) for principle in listening)
    leak = _leak(gate) if carriers > 1 else None
    if leak:
        message = f"over all principles {leak} on the gate's examples"
        yield Finding(rule="length-leak", principle=None, field="principles", message=message)
    for principle in listening:
        leak = _leak(principle.examples)
        if leak:
            yield Finding(rule="length-leak", principle=principle.id, field="examples", message=leak)


def _gate(principle: Principle) -> list[Example]:
    return [example for example in principle.examples if example.split == "gate"]


def _leak(examples: Sequence[Example]) -> str | None:
    """What the lengths give away, in words; None when it is nothing."""
    if len(examples) < MIN_EXAMPLES:
        return None
    lengths = [(len(example.better.strip()), len(example.worse.strip())) for example in examples]
    longer = sum(better > SIMILAR * worse for better, worse in lengths)
    shorter = sum(worse > SIMILAR * better for better, worse in lengths)
    which, count = ("longer", longer) if longer >= shorter else ("shorter", shorter)
    if wilson(count, len(examples)).low <= CHANCE:
        return None
    return (
        f"the better answer is the {which} one in {count} of {len(examples)} examples: a judge that looks at length "
        "only would pass"
    )
