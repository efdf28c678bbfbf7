"""What changes when comparisons are labelled by another rule: flips, labels won and lost, and where p moves most."""

from __future__ import annotations

from collections.abc import Sequence

from constitutional.feedback.label.opinions import side
from constitutional.records import Preference, Record
from constitutional.statistics import Rate, rate

LARGEST = 10


class Change(Record):
    """One comparison under both rules. `moved` is how far p of a goes; None where one of the rules abstains."""

    comparison_id: str
    p_first: float | None
    p_second: float | None
    moved: float | None
    flips: bool
    principles_first: tuple[str, ...]
    principles_second: tuple[str, ...]


class RuleComparison(Record):
    """Two rules on the same comparisons.

    `flips` counts, of the comparisons both rules label, those whose preferred answer is another one. A label of exactly
    one half prefers none: to leave it, or to come to it, is no flip.
    """

    rules: tuple[str, str]
    comparisons: int
    labelled: tuple[int, int]
    gained: int
    """Labelled by the second rule only."""
    lost: int
    """Labelled by the first rule only."""
    flips: Rate
    mean_moved: float | None
    """Mean distance of p between the rules, where both label."""
    abstained: tuple[dict[str, int], dict[str, int]]
    """Why labels abstain, and how many."""
    largest: tuple[Change, ...]


def compare_labels(
    first: Sequence[Preference], second: Sequence[Preference], *, rules: tuple[str, str], largest: int = LARGEST
) -> RuleComparison:
    """Compares the labels of two rules.

    Args:
        first: one label per comparison.
        second: of the same comparisons in the same order.
        rules: what to call the two.
        largest: how many of the largest changes to list.
    """
    changes = [_change(one, other) for one, other in zip(first, second, strict=True)]
    both = [change for change in changes if change.moved is not None]
    ranked = sorted(both, key=lambda c: (-abs(c.moved or 0.0), c.comparison_id))
    return RuleComparison(
        rules=rules,
        comparisons=len(changes),
        labelled=(sum(c.p_first is not None for c in changes), sum(c.p_second is not None for c in changes)),
        gained=sum(c.p_first is None and c.p_second is not None for c in changes),
        lost=sum(c.p_first is not None and c.p_second is None for c in changes),
        flips=rate(sum(c.flips for c in both), len(both)),
        mean_moved=sum(abs(c.moved or 0.0) for c in both) / len(both) if both else None,
        abstained=(_reasons(first), _reasons(second)),
        largest=tuple(change for change in ranked[:largest] if change.moved),
    )


def comparison_lines(found: RuleComparison) -> list[str]:
    """The comparison as lines of text."""
    one, other = found.rules
    share, interval = found.flips.share, found.flips.interval
    lines = [
        f"{found.comparisons} comparisons: {one} labels {found.labelled[0]}, {other} {found.labelled[1]} "
        f"({found.gained} more, {found.lost} fewer)",
        f"flips: {found.flips.count} of {found.flips.n} labelled by both, {share:.3f} "
        f"[{interval.low:.3f}, {interval.high:.3f}]"
        + ("" if found.mean_moved is None else f"; p moves by {found.mean_moved:.3f} on average"),
    ]
    for rule, reasons in zip(found.rules, found.abstained, strict=True):
        lines += [f"{rule} abstains: {count} x {why}" for why, count in reasons.items()]
    if found.largest:
        lines.append(f"the {len(found.largest)} largest changes (p of a, by which principles):")
    for change in found.largest:
        before, after = ", ".join(change.principles_first), ", ".join(change.principles_second)
        by = before if before == after else f"{before} -> {after}"
        mark = "  flips" if change.flips else ""
        lines.append(f"  {change.comparison_id}  {change.p_first:.3f} -> {change.p_second:.3f}{mark}  {by}")
    return lines


def _change(one: Preference, other: Preference) -> Change:
    if one.comparison_id != other.comparison_id:
        raise ValueError(f"labels of two comparisons side by side: {one.comparison_id}, {other.comparison_id}")
    moved = None if one.p_a is None or other.p_a is None else other.p_a - one.p_a
    flips = one.p_a is not None and other.p_a is not None and side(one.p_a) * side(other.p_a) < 0
    return Change(
        comparison_id=one.comparison_id,
        p_first=one.p_a,
        p_second=other.p_a,
        moved=moved,
        flips=flips,
        principles_first=one.principles,
        principles_second=other.principles,
    )


def _reasons(labels: Sequence[Preference]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for label in labels:
        if label.p_a is None:
            why = label.abstained or "no reason given"
            counts[why] = counts.get(why, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
