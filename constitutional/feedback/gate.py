"""The gate: before anything is trained on a judge's word, the judge answers labelled comparisons.

It passes a source of labels (the constitution's own examples, and human-labelled pairs when the recipe names some) if
the lower end of the 95 % interval of its accuracy is above chance and its order consistency reaches the bar. An answer
that could not be read counts against the judge: it is not right, and it is not left out. Where principles are only for
some conversations, the judge must see that in at least half of the examples their author gave each of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import fsum
from typing import Literal

from pydantic import SerializerFunctionWrapHandler, model_serializer

from constitutional.errors import GateError
from constitutional.feedback.applies import Applicability, CaseRow, case_problems, case_rows
from constitutional.feedback.label import CLAMP, Clamp, Opinion, clamped, opinions
from constitutional.feedback.label.opinions import side
from constitutional.principles import Constitution, Principle
from constitutional.prompts import HumanPair
from constitutional.records import Comparison, Judgment, Record, short_digest, user
from constitutional.statistics import Interval, wilson

CHANCE = 0.5
EXAMPLES, HUMAN = "examples", "human"


class Labelled(Record):
    """A comparison whose better answer is known (always `a`), and the principles the judge is asked it under."""

    comparison: Comparison
    principles: tuple[str, ...]
    source: Literal["examples", "human"]


class GateRow(Record):
    """The judge against one set of labels: all of a source, or one principle's."""

    name: str
    n: int
    correct: int
    unusable: int
    interval: Interval
    order_consistency: float
    same_position: float
    """Share of comparisons in which the judge preferred the same position in both orders."""

    @property
    def accuracy(self) -> float:
        """Share of right answers; unusable ones are not right."""
        return self.correct / self.n if self.n else 0.0


class GateReport(Record):
    """What the gate measured and what follows from it. `applies` is written only where principles have a case."""

    judge: str
    template_digest: str
    sources: tuple[GateRow, ...]
    principles: tuple[GateRow, ...]
    passed: bool
    reasons: tuple[str, ...]
    labels: Literal["judge", "provenance", "none"]
    applies: tuple[CaseRow, ...] = ()

    @model_serializer(mode="wrap")
    def _without_empty_cases(self, handler: SerializerFunctionWrapHandler) -> dict[str, object]:
        fields: dict[str, object] = handler(self)
        if not self.applies:
            fields.pop("applies", None)
        return fields


def labelled_examples(
    constitution: Constitution,
    *,
    split: Literal["gate", "tuning"] = "gate",
    per_principle: int | None = None,
    checks: bool = False,
    request: str = "comparison_request",
) -> list[Labelled]:
    """The constitution's own examples as comparisons, each asked under its own principle.

    Args:
        constitution: where the examples stand.
        split: which of them.
        per_principle: at most so many of each; None takes all.
        checks: also those of principles that have no such request, but a check to judge by.
        request: the field of a principle that the judge is asked (`score_request` where it grades answers alone).
    """
    found = []
    for principle in constitution.principles:
        if not getattr(principle, request) and not (checks and principle.check):
            continue
        chosen = [example for example in principle.examples if example.split == split][:per_principle]
        for example in chosen:
            comparison = Comparison(
                prompt_id=short_digest([principle.id, example.prompt]),
                messages=(user(example.prompt),),
                a=example.better,
                b=example.worse,
                origin="example",
            )
            found.append(Labelled(comparison=comparison, principles=(principle.ref,), source="examples"))
    return found


def labelled_pairs(pairs: Sequence[HumanPair], principles: Sequence[Principle]) -> list[Labelled]:
    """Human-labelled pairs as comparisons; each is asked under one principle, taken in turn.

    Pairs that are flagged (equal or empty answers, no shared conversation) have no right answer to find; they and
    repetitions are left out.
    """
    found: list[Labelled] = []
    seen: set[str] = set()
    for pair in pairs:
        if pair.flags:
            continue
        comparison = Comparison(
            prompt_id=short_digest([m.model_dump() for m in pair.messages]),
            messages=pair.messages,
            a=pair.chosen,
            b=pair.rejected,
            origin="human",
        )
        if comparison.id in seen:
            continue
        seen.add(comparison.id)
        principle = principles[len(found) % len(principles)].ref
        found.append(Labelled(comparison=comparison, principles=(principle,), source="human"))
    return found


@dataclass(frozen=True)
class _Answered:
    """One labelled comparison under one principle, with the judge's opinion when it gave one in both orders."""

    principle: str
    source: str
    opinion: Opinion | None


def measure_gate(
    labelled: Sequence[Labelled],
    judgments: Iterable[Judgment],
    *,
    judge: str,
    template_digest: str,
    min_order_consistency: float,
    fallback: Literal["stop", "provenance"],
    principles: Sequence[Principle] = (),
    verdicts: Sequence[Applicability] = (),
) -> GateReport:
    """Measures the judge and decides whether its labels may be used.

    Args:
        labelled: the comparisons that were asked.
        judgments: the judge's answers to them, both orders.
        judge: identity of the judge.
        template_digest: of the template the judge was asked with.
        min_order_consistency: bar for the share of comparisons answered alike in both orders.
        fallback: "provenance" uses the revision-over-original labels when the judge fails, "stop" uses none.
        principles: all that take part in judging, where some of them are code. What a check makes of its examples is
            no evidence of the judge: it has a row of its own, and fails the gate when it is not right on most of them.
            Where all are code there is no judge to measure.
        verdicts: what the judge said to whether principles apply to their own examples, which are all cases of theirs.
    """
    by_comparison = opinions(judgments)
    answered = []
    for item in labelled:
        given = {opinion.principle: opinion for opinion in by_comparison.get(item.comparison.id, [])}
        answered += [_Answered(ref, item.source, given.get(ref)) for ref in item.principles]
    by_check = {p.ref for p in principles if p.check is not None}
    asked = [a for a in answered if a.principle not in by_check]
    present = [s for s in (EXAMPLES, HUMAN) if any(a.source == s for a in asked)]
    sources = tuple(_row(s, [a for a in asked if a.source == s]) for s in present)
    rows = tuple(
        _row(ref, [a for a in answered if a.principle == ref]) for ref in sorted({a.principle for a in answered})
    )
    no_judge = bool(by_check) and len(by_check) == len(principles)
    reasons = [] if sources or no_judge else ["there are no labelled comparisons to measure the judge on"]
    for row in sources:
        if row.interval.low <= CHANCE:
            reasons.append(
                f"accuracy on {row.name} is {row.accuracy:.2f} [{row.interval.low:.2f}, {row.interval.high:.2f}] of "
                f"{row.n}: the interval does not lie above chance"
            )
        if row.order_consistency < min_order_consistency:
            reasons.append(
                f"order consistency on {row.name} is {row.order_consistency:.2f}, below the bar of "
                f"{min_order_consistency:.2f}"
            )
    reasons += [
        f"the check of {row.name} is right on {row.correct} of its {row.n} examples"
        for row in rows
        if row.name in by_check and row.accuracy <= CHANCE
    ]
    cases = case_rows(verdicts)
    reasons += case_problems(cases)
    passed = not reasons
    return GateReport(
        judge=judge,
        template_digest=template_digest,
        sources=sources,
        principles=rows,
        passed=passed,
        reasons=tuple(reasons),
        labels="judge" if passed else "provenance" if fallback == "provenance" else "none",
        applies=cases,
    )


def sureness(labelled: Sequence[Labelled], judgments: Iterable[Judgment], clamp: Clamp = CLAMP) -> float:
    """How sure the judge is where it is right: its mean p of the better answer, over both orders.

    What checks say does not count: they are right or wrong, and say nothing of how sure a judge is. Where they alone
    were asked there is no judge to measure, and labels are as certain as theirs: 1. The opinions of a judge that
    reasons first are clamped, as in labels (`clamp`).

    Raises:
        GateError: it is right nowhere.
    """
    cases = {(item.comparison.id, ref) for item in labelled for ref in item.principles}
    asked = [j for j in judgments if j.mode not in ("check", "applies") and (j.comparison_id, j.principle) in cases]
    if not asked:
        return 1.0
    by_comparison = opinions(asked)
    given = [
        o for item in labelled for o in by_comparison.get(item.comparison.id, []) if o.principle in item.principles
    ]
    right = [clamped(opinion, clamp).p_a for opinion in given if side(opinion.p_a) > 0]
    if not right:
        raise GateError("the judge is right on none of its labelled comparisons: there is no telling how sure it is")
    return fsum(right) / len(right)


def require(report: GateReport) -> None:
    """Stops a run whose judge failed and whose recipe names no fallback.

    Raises:
        GateError: with the reasons, and what can be done.
    """
    if report.labels == "none":
        raise GateError(
            f"the judge {report.judge} did not pass its gate: {'; '.join(report.reasons)}. Use a stronger judge, other "
            "wordings, or set gate.fallback to 'provenance' to label by revision-over-original instead"
        )


def _row(name: str, answered: Sequence[_Answered]) -> GateRow:
    usable = [a.opinion for a in answered if a.opinion is not None]
    correct = sum(side(o.p_a) > 0 for o in usable)
    consistent = sum(o.consistent for o in usable) / len(usable) if usable else 0.0
    return GateRow(
        name=name,
        n=len(answered),
        correct=correct,
        unusable=len(answered) - len(usable),
        interval=wilson(correct, len(answered)),
        order_consistency=consistent,
        same_position=sum(o.same_position for o in usable) / len(usable) if usable else 0.0,
    )
