"""A comparison of two versions as text of at most 100 columns."""

from __future__ import annotations

from collections.abc import Iterator

from constitutional.audit.measures.change_records import DiffCost, VersionDiff
from constitutional.audit.measures.records import Estimate
from constitutional.display import printable
from constitutional.statistics import bracketed


def cost_line(cost: DiffCost) -> str:
    """What is going to be asked, and what that costs."""
    stored = f", {cost.stored} answered already" if cost.stored else ""
    return f"{cost.judgments} judgments{stored}: {cost.to_ask} to ask, about {cost.tokens} tokens"


def diff_lines(diff: VersionDiff) -> Iterator[str]:
    """Every changed principle, then the labels."""
    yield printable(f"run {diff.run}: {diff.old} -> {diff.new}, judge {diff.judge}")
    if diff.missing:
        yield f"{diff.missing} questions are not asked yet; the figures are without them"
    for row in diff.principles:
        yield ""
        yield printable(f"{row.old} -> {row.new} ({', '.join(row.fields) or 'only its version'})")
        yield f"  {row.comparisons} comparisons judged under both; judgments {_outcomes(row.old_outcomes)}"
        yield f"  {'':<36}then {_outcomes(row.new_outcomes)}"
        yield f"  {'answers that flip':<36}{_shown(row.flips, signed=False)}"
        yield f"  {'p of a':<36}{_shown(row.shift)}"
        yield f"  {'decisiveness':<36}{_shown(row.decisiveness)}"
        yield f"  {'strength against labels':<36}{_shown(row.strength)}"
        yield f"  {'both orders the same':<36}{_shown(row.order_consistency)}"
    labels = diff.labels
    yield ""
    yield f"training labels by the rule '{labels.rule}': {labels.labels} on {labels.comparisons} comparisons"
    yield f"  {'change side':<36}{_shown(labels.flips, signed=False)}"
    yield f"  {'are no label any more':<36}{_shown(labels.lost, signed=False)}"
    yield f"  {'are a label now':<36}{labels.gained}"
    yield f"  {'move by, on average':<36}{_shown(labels.mean_shift, signed=False)}"
    yield f"  {labels.stored_same} of the run's {labels.stored} stored labels come out the same from the old versions"
    for refs, what in ((diff.added, "new, and not judged"), (diff.removed, "gone, and left in the labels")):
        if refs:
            yield printable(f"{what}: {', '.join(refs)}")
    for note in diff.notes:
        yield f"note: {note}"
    yield f"differences are new less old, paired; 95 % intervals, {diff.resamples} draws of whole prompts"


def _outcomes(outcomes: dict[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in outcomes.items() if n) or "none"


def _shown(value: Estimate, *, signed: bool = True) -> str:
    if value.value is None:
        return f"— (n = {value.n})"
    ends = f" {bracketed(value.interval, signed=signed)}" if value.interval else ""
    return f"{value.value:{'+.2f' if signed else '.2f'}}{ends} (n = {value.n}, {value.prompts} prompts)"
