"""A trial of a constitution: does a judge find the better answer in every principle's own examples?

Per principle: right answers on its examples (both splits), the same verdict in both orders, the opposite verdict under
the negated request, the same verdict under paraphrases, and what it makes of the other principles' examples. An answer
that could not be read is not right, agrees with nothing, and is counted. A principle that is code is tried as a run
judges it: by its check, so that no wording of it is asked.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

from constitutional.audit.probes import (
    SPLITS,
    Answered,
    Asking,
    ExampleSplit,
    Probe,
    TriedExample,
    TriedQuestion,
    answer,
    examples_of,
    tried,
)
from constitutional.checks import NO_CHECKS, Check
from constitutional.errors import ConstitutionError
from constitutional.principles import Constitution, Principle
from constitutional.records import Record, seed_for
from constitutional.statistics import Rate, rate

REQUEST, NEGATED, PARAPHRASE, CROSS = "request", "negated", "paraphrase", "cross"


class Agreement(Record):
    """How a second wording's verdicts compare with the request's, on the same examples."""

    same: Rate
    """Same verdict (under the negated request: the opposite one), of all pairs asked. A tie is no verdict."""
    unusable: int
    """Pairs in which one of the two could not be read."""
    mean_gap: float | None
    """Mean |p - p'| over the others; under the negated request |p - (1 - p')|. None when there are none."""


class PrincipleRow(Record):
    """One principle on its own examples; `None` stands for what there was nothing to ask about."""

    principle: str
    digest: str
    by_check: str | None
    """The check that judged in the judge's place, with its version; None where the judge did."""
    right: Rate
    by_split: dict[ExampleSplit, Rate]
    unusable: int
    """Own examples without a readable answer in both orders; they count as not right. A check has none where it scores
    both answers alike, says nothing of one, or fails."""
    orders: Rate
    """Same verdict in both orders, of the examples with a readable answer in both."""
    negation: Agreement | None
    paraphrases: Agreement | None
    cross: Rate | None
    """Decided for the better answer, of the other principles' examples that were asked."""


class CrossCell(Record):
    """One principle asked on some of another one's examples."""

    principle: str
    examples_of: str
    decided: Rate
    unusable: int


class Untested(Record):
    """A principle without a row, and why."""

    principle: str
    reason: str


class Trial(Record):
    """What a trial found, and everything it was made from."""

    constitution: str
    constitution_digest: str
    templates: str
    template_digest: str
    judge: str
    seed: int
    overall: Rate
    """Right answers over all own examples of all principles, both splits together."""
    unusable: int
    principles: tuple[PrincipleRow, ...]
    untested: tuple[Untested, ...]
    cross: tuple[CrossCell, ...]
    examples: tuple[TriedExample, ...]
    questions: tuple[TriedQuestion, ...]


def run_trial(constitution: Constitution, asking: Asking, *, limit: int | None = None, cross: int = 1) -> Trial:
    """Asks the judge all there is to ask, and measures what it said.

    Args:
        constitution: whose examples are judged.
        asking: the judge, its templates and the seed, and the checks of the principles that are code.
        limit: at most this many examples of a principle and split.
        cross: how many examples of every other principle each principle is asked on.

    Raises:
        ConstitutionError: no principle has a comparison_request (or an opened check) and an example.
        BackendError: the judge gives no log-probabilities.
    """
    examples = examples_of(constitution, limit, checks=bool(asking.checks))
    if not examples:
        raise ConstitutionError(f"{constitution.ref}: no principle has both a comparison_request and an example to try")
    probes = plan(constitution, examples, cross, asking.seed, asking.checks)
    return measure(constitution, examples, answer(probes, asking), asking)


def plan(
    constitution: Constitution,
    examples: Sequence[TriedExample],
    cross: int,
    seed: int,
    checks: Mapping[str, Check] = NO_CHECKS,
) -> list[Probe]:
    """Everything a trial asks: request, negated request and paraphrases on a principle's own examples, then cross-talk.

    `cross` examples of every other principle are drawn, the same ones whoever is asked, so that principles compare.
    """
    own: dict[str, list[TriedExample]] = {}
    for example in examples:
        own.setdefault(example.owner, []).append(example)
    probes = []
    taking_part = [p for p in constitution.principles if asked(p, checks)]
    for principle in taking_part:
        for wording, request in [(REQUEST, "")] if principle.ref in checks else _wordings(principle):
            probes += [Probe(example, principle, wording, request) for example in own.get(principle.ref, [])]
    drawn = {ref: _draw(found, cross, seed_for(seed, CROSS, ref)) for ref, found in own.items()}
    for principle in taking_part:
        others = [example for ref, found in drawn.items() if ref != principle.ref for example in found]
        request = "" if principle.ref in checks else principle.comparison_request or ""
        probes += [Probe(example, principle, CROSS, request) for example in others]
    return probes


def asked(principle: Principle, checks: Mapping[str, Check]) -> bool:
    """True for what there is a way to judge by: a request, or an opened check."""
    return bool(principle.comparison_request) or principle.ref in checks


def measure(
    constitution: Constitution, examples: Sequence[TriedExample], answered: Sequence[Answered], asking: Asking
) -> Trial:
    """The figures of a trial, from the answers to the probes of `plan`."""
    by_ref: dict[str, list[Answered]] = {}
    for item in answered:
        by_ref.setdefault(item.probe.principle.ref, []).append(item)
    tested = {example.owner for example in examples}
    rows = [_row(p, by_ref[p.ref], asking.checks.get(p.ref)) for p in constitution.principles if p.ref in tested]
    own = [item for item in answered if item.probe.wording == REQUEST]
    return Trial(
        constitution=constitution.ref,
        constitution_digest=constitution.digest,
        templates=asking.pack.ref,
        template_digest=asking.pack.digest("judge"),
        judge=asking.backend.model,
        seed=asking.seed,
        overall=_right(own),
        unusable=_unusable(own),
        principles=tuple(rows),
        untested=tuple(
            Untested(principle=p.ref, reason="no examples" if asked(p, asking.checks) else "no comparison_request")
            for p in constitution.principles
            if p.ref not in tested
        ),
        cross=tuple(_cells([item for item in answered if item.probe.wording == CROSS])),
        examples=tuple(examples),
        questions=tuple(tried(item) for item in answered),
    )


def _wordings(principle: Principle) -> list[tuple[str, str]]:
    found = [(REQUEST, principle.comparison_request or "")]
    if principle.negated_comparison_request:
        found.append((NEGATED, principle.negated_comparison_request))
    return found + [(f"{PARAPHRASE} {number}", text) for number, text in enumerate(principle.paraphrases, start=1)]


def _draw(examples: Sequence[TriedExample], count: int, seed: int) -> list[TriedExample]:
    chosen = random.Random(seed).sample(range(len(examples)), min(count, len(examples)))
    return [examples[i] for i in sorted(chosen)]


def _row(principle: Principle, answered: Sequence[Answered], check: Check | None) -> PrincipleRow:
    def under(fits: Callable[[str], bool]) -> list[Answered]:
        return [item for item in answered if fits(item.probe.wording)]

    own = under(lambda wording: wording == REQUEST)
    others = under(lambda wording: wording == CROSS)
    readable = [item.opinion for item in own if item.opinion is not None]
    return PrincipleRow(
        principle=principle.ref,
        digest=principle.digest,
        by_check=check.identity if check else None,
        right=_right(own),
        by_split={split: _right([item for item in own if item.probe.example.split == split]) for split in SPLITS},
        unusable=_unusable(own),
        orders=rate(sum(opinion.consistent for opinion in readable), len(readable)),
        negation=_agreement(own, under(lambda wording: wording == NEGATED), sign=-1),
        paraphrases=_agreement(own, under(lambda wording: wording.startswith(PARAPHRASE)), sign=1),
        cross=_right(others) if others else None,
    )


def _agreement(own: Sequence[Answered], other: Sequence[Answered], *, sign: int) -> Agreement | None:
    """Compares each answer with the request's on the same example; `sign` -1 expects the opposite."""
    if not other:
        return None
    by_example = {item.probe.example.comparison.id: item for item in own}
    pairs = [(by_example[item.probe.example.comparison.id], item) for item in other]
    same = sum(one.verdict != 0 and one.verdict == sign * two.verdict for one, two in pairs)
    gaps = []
    for one, two in pairs:
        if one.opinion is not None and two.opinion is not None:
            expected = two.opinion.p_a if sign > 0 else 1 - two.opinion.p_a
            gaps.append(abs(one.opinion.p_a - expected))
    return Agreement(
        same=rate(same, len(pairs)),
        unusable=len(pairs) - len(gaps),
        mean_gap=sum(gaps) / len(gaps) if gaps else None,
    )


def _cells(answered: Sequence[Answered]) -> list[CrossCell]:
    cells: dict[tuple[str, str], list[Answered]] = {}
    for item in answered:
        cells.setdefault((item.probe.principle.ref, item.probe.example.owner), []).append(item)
    return [
        CrossCell(principle=ref, examples_of=owner, decided=_right(found), unusable=_unusable(found))
        for (ref, owner), found in cells.items()
    ]


def _right(answered: Sequence[Answered]) -> Rate:
    return rate(sum(item.verdict > 0 for item in answered), len(answered))


def _unusable(answered: Sequence[Answered]) -> int:
    return sum(item.opinion is None for item in answered)
