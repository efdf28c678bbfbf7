"""Per-principle judgments (Bai et al. 2022, section 4.1; both orders as Lee et al. 2023).

For every comparison, principle and order the judge is asked which answer it prefers, in one of the ways of
`feedback.judging`. The judgment keeps what p was read from, the template, the judge, the order and the seed. Judgments
go to the ledger as they are: no clamping, no averaging of orders, no repair. A principle that is code is judged by its
check (`feedback.checked`). Where a principle's `applies_when` is asked first and does not hold, the judgment is
`not_applicable`, of mode `applies`; every judgment made after that question holds the answer to it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import cast

from constitutional.backends import Backend
from constitutional.checks import NO_CHECKS, Check
from constitutional.feedback.applies import Applicability
from constitutional.feedback.checked import judge_by_check, raw_json
from constitutional.feedback.judging.by_model import ask_model
from constitutional.feedback.judging.cases import case_verdicts, left_out
from constitutional.feedback.judging.cot import ask_cot
from constitutional.feedback.judging.logprob import ask_logprob
from constitutional.feedback.judging.score import ask_score
from constitutional.feedback.judging.vote import ask_vote
from constitutional.feedback.judging.ways import PLAIN, TEMPLATE_OF, Judge, Question, Scorer, Told, Way
from constitutional.few_shots import FewShots
from constitutional.principles import Principle
from constitutional.records import (
    Comparison,
    Dialogue,
    Judgment,
    Order,
    Usage,
    canonical_json,
    digest,
    seed_for,
)
from constitutional.templates import TemplatePack

ORDERS: tuple[Order, Order] = ("ab", "ba")

Known = Callable[[Sequence[str]], Mapping[str, Judgment]]
"""Looks up judgments already in the ledger by key."""


def choose_principles(
    comparison_id: str, principles: Sequence[Principle], count: int | None, seed: int
) -> tuple[Principle, ...]:
    """`count` principles drawn for a comparison without replacement, in constitution order; all when None."""
    if count is None or count >= len(principles):
        return tuple(principles)
    drawn = random.Random(seed_for(seed, "judge", comparison_id)).sample(range(len(principles)), count)
    return tuple(principles[i] for i in sorted(drawn))


def questions(
    comparisons: Sequence[Comparison],
    assigned: Sequence[Sequence[Principle]],
    *,
    pack: TemplatePack,
    judge_model: str,
    checks: Mapping[str, Check] = NO_CHECKS,
    ask_applies: bool = False,
    way: Way = PLAIN,
) -> list[Question]:
    """Every comparison under each of its principles in both orders; the arguments are those of `judge`."""
    template = way.template_digest(pack)
    asked = []
    for comparison, principles in zip(comparisons, assigned, strict=True):
        for principle in principles:
            conditional = ask_applies and principle.applies_when is not None and way.mode != "model"
            case = [principle.applies_when, pack.digest("applies"), judge_model] if conditional else []
            shots = way.shots(pack.few_shots.under(principle.few_shots), comparison.id, principle.ref)
            for order in ORDERS:
                if (check := checks.get(principle.ref)) is not None:
                    key = digest(["check", comparison.id, principle.ref, check.identity, order, *case])
                    asked.append(Question(comparison, principle, order, (), key, check, conditional))
                    continue
                asked_for = _asked_for(principle, way, shots)
                key = digest([way.mode, comparison.id, asked_for, template, judge_model, order, *way.key(), *case])
                dialogue = _dialogue(comparison, principle, order, pack, way, shots)
                asked.append(Question(comparison, principle, order, dialogue, key, None, conditional))
    return asked


def _asked_for(principle: Principle, way: Way, shots: FewShots) -> list[object]:
    """What a judge reads of a principle; a preference model reads nothing but answers."""
    if way.mode == "model":
        return [principle.ref]
    if way.mode == "score":
        return [principle.ref, principle.score_request]
    drawn = [shots.texts("comparison")] if way.shot_requests else principle.shown("comparison")
    return [principle.ref, principle.comparison_request, *drawn]


def _dialogue(
    comparison: Comparison, principle: Principle, order: Order, pack: TemplatePack, way: Way, shots: FewShots
) -> Dialogue:
    """What the judge is asked; empty in the modes that look at one answer at a time."""
    if way.mode in ("score", "model"):
        return ()
    first, second = (comparison.a, comparison.b) if order == "ab" else (comparison.b, comparison.a)
    return pack.render(
        TEMPLATE_OF[way.mode],
        shots if way.shot_requests else principle.few_shots,
        conversation=comparison.messages,
        a=first,
        b=second,
        comparison_request=principle.comparison_request or "",
    ).dialogue


def judge(
    comparisons: Sequence[Comparison],
    *,
    assigned: Sequence[Sequence[Principle]],
    backend: Judge,
    pack: TemplatePack,
    seed: int,
    known: Known | None = None,
    checks: Mapping[str, Check] = NO_CHECKS,
    ask_applies: bool = False,
    way: Way = PLAIN,
) -> Iterator[Judgment]:
    """Judges each comparison under each of its assigned principles, in both orders.

    Args:
        comparisons: one chunk.
        assigned: per comparison, the principles it is judged under.
        backend: the judge; must give log-probabilities, save in mode `vote`. In mode `model` a preference model.
        pack: the template of the mode, and the two options.
        seed: recorded. What is drawn is drawn with the seed in `way.sampling`, all else is deterministic.
        known: judgments already in the ledger are returned from there and not asked again.
        checks: the opened checks of principles that are code, by `id@version`; these judge in the backend's place.
        ask_applies: ask of principles with an `applies_when` first whether they apply (template `applies`). What is
            asked of them otherwise, a constitution's own examples say, is taken to be their case. A preference model
            can not be asked, and its opinion is about no principle: all apply to it.
        way: how the judge is asked: its mode, and what belongs to it.

    Yields:
        One Judgment per question, in the order of `questions`; a question that does not fit the judge's context is a
        judgment with outcome `error`, one whose options hold no mass is `invalid`.

    Raises:
        BackendError: the judge gives no log-probabilities where they are needed.
    """
    asked = questions(
        comparisons, assigned, pack=pack, judge_model=backend.model, checks=checks, ask_applies=ask_applies, way=way
    )
    found = dict(known([question.key for question in asked])) if known else {}
    verdicts = case_verdicts([q for q in asked if q.conditional and q.key not in found], backend, pack, seed)
    unpaid = {case: verdict.usage for case, verdict in verdicts.items()}  # one verdict serves several judgments
    by_code: dict[tuple[str, str], list[Question]] = {}
    for question in asked:
        verdict = verdicts.get(question.case)
        if question.key in found:
            continue
        if verdict is not None and not verdict.applies:
            found[question.key] = left_out(question, verdict, unpaid.pop(question.case, Usage()))
        elif question.check is not None:
            by_code.setdefault((question.comparison.id, question.principle.ref), []).append(question)
    for group in by_code.values():
        one, check = group[0], group[0].check
        assert check is not None
        verdict, cost = verdicts.get(one.case), unpaid.pop(one.case, Usage())
        keys = {question.order: question.key for question in group}
        for judgment in judge_by_check(one.comparison, one.principle, check, keys, seed, verdict, cost):
            found[judgment.key] = judgment
    fresh = {question.key: question for question in asked if question.key not in found}  # each is asked once
    told = dict(zip(fresh, _ask(list(fresh.values()), backend, pack, way), strict=True))
    for question in asked:
        if question.key not in found:
            verdict, before = verdicts.get(question.case), unpaid.pop(question.case, Usage())
            template = way.template_digest(pack)
            found[question.key] = _judgment(
                question, told[question.key], way, template, backend.model, seed, verdict, before
            )
        yield found[question.key]


def _ask(asked: Sequence[Question], judge: Judge, pack: TemplatePack, way: Way) -> list[Told]:
    """The one place where a mode is chosen."""
    if way.mode == "model":
        return ask_model(asked, cast(Scorer, judge))
    ask = {"logprob": ask_logprob, "cot": ask_cot, "vote": ask_vote, "score": ask_score}[way.mode]
    return ask(asked, cast(Backend, judge), pack, way)


def _judgment(
    question: Question,
    told: Told,
    way: Way,
    template: str,
    judge_model: str,
    seed: int,
    verdict: Applicability | None,
    before: Usage,
) -> Judgment:
    """The judge's answer; `verdict` and `before`: what it said, and spent, when asked whether the principle applies."""
    said = told.said if told.error is None else {"error": told.error}
    plain = told.error if told.error is not None else canonical_json(dict(told.said)) if told.said else None
    return Judgment(
        key=question.key,
        comparison_id=question.comparison.id,
        principle=question.principle.ref,
        principle_digest=question.principle.digest,
        template_digest=template,
        judge=judge_model,
        mode=way.mode,
        order=question.order,
        outcome=told.outcome,
        p_a=told.p_a,
        logprobs=told.logprobs,
        mass=told.mass,
        raw=plain if verdict is None else raw_json(said, verdict),
        usage=Usage(
            prompt_tokens=before.prompt_tokens + told.usage.prompt_tokens,
            completion_tokens=before.completion_tokens + told.usage.completion_tokens,
        ),
        seed=seed,
        samples=told.samples,
    )
