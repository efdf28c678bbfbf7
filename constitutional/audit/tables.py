"""The figures of revision, judging and labelling, each counted from the records themselves."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence, Set
from math import fsum

from pydantic import SerializerFunctionWrapHandler, model_serializer

from constitutional.feedback.label import opinions
from constitutional.feedback.label.opinions import side
from constitutional.principles import Constitution
from constitutional.records import Judgment, Outcome, Preference, Record, Revision
from constitutional.statistics import Rate, rate
from constitutional.text_metrics import words

BINS = 10


class PrincipleRow(Record):
    """How one principle was judged, or how the judge used all it was asked under. Figures over nothing are None.

    `decisiveness` is the mean of 2·|p - 1/2|: over single judgments, and over pairs of both orders, where a position
    bias cancels. `first_position` counts the judgments (ties left out) that prefer the answer shown first;
    `mean_p` is of answer a. `mean_mass` is over the judge's own answers, not its word on what applies.
    """

    principle: str
    title: str
    judgments: int
    outcomes: dict[Outcome, int]
    usable: int
    mean_p: float | None
    decisiveness: float | None
    pairs: int
    decisiveness_both: float | None
    order_consistency: Rate
    first_position: Rate
    mean_mass: float | None


class RevisionRow(Record):
    """The revisions made under one principle, all rounds counted."""

    principle: str
    title: str
    usable: Rate


class RevisionFigures(Record):
    """What critique and revision came to. `flags` counts final revisions; a revision can carry several.

    `unrevised` prompts kept their first answer: no principle applies to them, or the checks drawn for them saw no need.
    Of `undecided` ones that the judge could not be read on whether a principle applies. No figure after these counts
    them, nor any round without a revision; `undecided` is written only where there are some.
    """

    prompts: int
    unrevised: int
    rounds: int
    usable: Rate
    flags: dict[str, int]
    mean_drafts: float | None
    initial_words: float | None
    final_words: float | None
    principles: tuple[RevisionRow, ...]
    undecided: int = 0

    @model_serializer(mode="wrap")
    def _without_none_undecided(self, handler: SerializerFunctionWrapHandler) -> dict[str, object]:
        fields: dict[str, object] = handler(self)
        if not self.undecided:
            fields.pop("undecided", None)
        return fields


class LabelFigures(Record):
    """The soft labels. `histogram` counts p of a in ten bins of equal width; an edge belongs to the upper bin."""

    labels: int
    rules: dict[str, int]
    abstained: dict[str, int]
    histogram: tuple[int, ...]
    mean_agreement: float | None


def mean(values: Sequence[float]) -> float | None:
    """The mean; None of nothing."""
    return fsum(values) / len(values) if values else None


def principle_rows(judgments: Sequence[Judgment], constitution: Constitution) -> tuple[PrincipleRow, ...]:
    """One row a principle, in the constitution's order (then those it no longer has), and last one over all.

    The last one is of the judge: it counts what the judge was asked, and neither checks, which would make any judge
    look consistent, nor principles that did not apply. Without such judgments there is no last row.
    """
    if not judgments:
        return ()
    titles = {p.ref: p.title for p in constitution.principles}
    by_ref: dict[str, list[Judgment]] = {ref: [] for ref in titles}
    for judgment in judgments:
        by_ref.setdefault(judgment.principle, []).append(judgment)
    rows = [principle_row(ref, titles.get(ref, ""), found) for ref, found in by_ref.items() if found]
    asked = [judgment for judgment in judgments if judgment.mode not in ("check", "applies")]
    return (*rows, principle_row("all", "all principles", asked)) if asked else tuple(rows)


def principle_row(principle: str, title: str, judgments: Sequence[Judgment]) -> PrincipleRow:
    """The figures of some judgments."""
    usable = [j for j in judgments if j.p_a is not None]
    p_a = [j.p_a for j in usable if j.p_a is not None]
    first = [j.p_a if j.order == "ab" else 1 - j.p_a for j in usable if j.p_a is not None and side(j.p_a)]
    both = [opinion for found in opinions(usable).values() for opinion in found]
    return PrincipleRow(
        principle=principle,
        title=title,
        judgments=len(judgments),
        outcomes=dict(sorted(Counter(j.outcome for j in judgments).items())),
        usable=len(usable),
        mean_p=mean(p_a),
        decisiveness=mean([2 * abs(p - 0.5) for p in p_a]),
        pairs=len(both),
        decisiveness_both=mean([2 * abs(o.p_a - 0.5) for o in both]),
        order_consistency=rate(sum(o.consistent for o in both), len(both)),
        first_position=rate(sum(p > 0.5 for p in first), len(first)),
        mean_mass=mean([j.mass for j in judgments if j.mode not in ("check", "applies") and j.mass is not None]),
    )


def revision_figures(
    revisions: Sequence[Revision], constitution: Constitution, unread: Set[str] = frozenset()
) -> RevisionFigures | None:
    """What critique and revision came to; None without revisions.

    Args:
        revisions: of all prompts.
        constitution: for titles.
        unread: ids of prompts of which the judge could not be read on whether some principle applies.
    """
    if not revisions:
        return None
    rounds = [step for revision in revisions for step in revision.revised]
    revised = [revision for revision in revisions if revision.revised]
    titles = {p.ref: p.title for p in constitution.principles}
    flags = Counter(flag for revision in revised for flag in revision.revised[-1].flags)
    named = sorted({step.principle for step in rounds}, key=lambda ref: (ref not in titles, [*titles, ref].index(ref)))
    under = {ref: [step for step in rounds if step.principle == ref] for ref in named}
    return RevisionFigures(
        prompts=len(revisions),
        unrevised=sum(not revision.revised and revision.prompt_id not in unread for revision in revisions),
        undecided=sum(not revision.revised and revision.prompt_id in unread for revision in revisions),
        rounds=len(rounds),
        usable=rate(sum(revision.usable for revision in revised), len(revised)),
        flags=dict(sorted(flags.items(), key=lambda item: (-item[1], item[0]))),
        mean_drafts=mean([step.candidate + 1 for step in rounds]),
        initial_words=mean([len(words(revision.initial)) for revision in revised]),
        final_words=mean([len(words(revision.final)) for revision in revised]),
        principles=tuple(
            RevisionRow(
                principle=ref,
                title=titles.get(ref, ""),
                usable=rate(sum(not step.flags for step in found), len(found)),
            )
            for ref, found in under.items()
        ),
    )


def label_figures(preferences: Sequence[Preference]) -> LabelFigures | None:
    """The soft labels; None without any."""
    if not preferences:
        return None
    return LabelFigures(
        labels=sum(p.p_a is not None for p in preferences),
        rules=dict(sorted(Counter(p.rule for p in preferences).items())),
        abstained=dict(sorted(Counter(p.abstained or "no reason given" for p in preferences if p.p_a is None).items())),
        histogram=histogram([p.p_a for p in preferences if p.p_a is not None]),
        mean_agreement=mean([p.agreement for p in preferences if p.agreement is not None]),
    )


def histogram(values: Sequence[float], bins: int = BINS) -> tuple[int, ...]:
    """Counts of values in [0, 1] in bins of equal width; an edge belongs to the upper bin, 1 to the last."""
    edges = [i / bins for i in range(1, bins)]
    counts = Counter(bisect_right(edges, value) for value in values)
    return tuple(counts[i] for i in range(bins))
