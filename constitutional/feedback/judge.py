"""Per-principle judgments by option log-probabilities (Bai et al. 2022, section 4.1; both orders as Lee et al. 2023).

For every comparison, principle and order the judge is asked which answer it prefers; p is the softmax over the two
options' log-probabilities. The judgment keeps both log-probabilities, the options' mass, the template, the judge, the
order and the seed. Judgments go to the ledger as they are: no clamping, no averaging, no repair. A principle that is
code is judged by its check (`feedback.checked`). Where a principle's `applies_when` is asked first and does not hold,
the judgment is `not_applicable`, of mode `applies`; every judgment made after that question holds the answer to it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from constitutional.backends import Backend, Likelihood
from constitutional.checks import NO_CHECKS, Check, coded_digest
from constitutional.feedback.applies import Applicability, applies
from constitutional.feedback.checked import judge_by_check, raw_json
from constitutional.feedback.options import OPTION_TOKENS, option_probability
from constitutional.principles import Principle
from constitutional.records import (
    Comparison,
    Dialogue,
    Judgment,
    Order,
    Outcome,
    Usage,
    digest,
    seed_for,
)
from constitutional.templates import TemplatePack

ORDERS: tuple[Order, Order] = ("ab", "ba")

Known = Callable[[Sequence[str]], Mapping[str, Judgment]]
"""Looks up judgments already in the ledger by key."""


@dataclass(frozen=True)
class Question:
    """One thing to ask the judge, or a check in its place; `key` is its digest."""

    comparison: Comparison
    principle: Principle
    order: Order
    dialogue: Dialogue
    key: str
    check: Check | None = None
    conditional: bool = False
    """The judge is asked first whether the principle applies."""

    @property
    def case(self) -> tuple[str, str]:
        """What is asked then: of which prompt, and of which principle."""
        return self.comparison.prompt_id, self.principle.ref


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
) -> list[Question]:
    """Every comparison under each of its principles in both orders; the arguments are those of `judge`."""
    template = pack.digest("judge")
    asked = []
    for comparison, principles in zip(comparisons, assigned, strict=True):
        for principle in principles:
            conditional = ask_applies and principle.applies_when is not None
            case = [principle.applies_when, pack.digest("applies"), judge_model] if conditional else []
            for order in ORDERS:
                if (check := checks.get(principle.ref)) is not None:
                    key = digest(["check", comparison.id, principle.ref, check.identity, order, *case])
                    asked.append(Question(comparison, principle, order, (), key, check, conditional))
                    continue
                first, second = (comparison.a, comparison.b) if order == "ab" else (comparison.b, comparison.a)
                rendered = pack.render(
                    "judge",
                    principle.few_shots,
                    conversation=comparison.messages,
                    a=first,
                    b=second,
                    comparison_request=principle.comparison_request or "",
                )
                asked_for = [principle.ref, principle.comparison_request, *principle.shown("comparison")]
                key = digest(["logprob", comparison.id, asked_for, template, judge_model, order, *case])
                asked.append(Question(comparison, principle, order, rendered.dialogue, key, None, conditional))
    return asked


def judge(
    comparisons: Sequence[Comparison],
    *,
    assigned: Sequence[Sequence[Principle]],
    backend: Backend,
    pack: TemplatePack,
    seed: int,
    known: Known | None = None,
    checks: Mapping[str, Check] = NO_CHECKS,
    ask_applies: bool = False,
) -> Iterator[Judgment]:
    """Judges each comparison under each of its assigned principles, in both orders.

    Args:
        comparisons: one chunk.
        assigned: per comparison, the principles it is judged under.
        backend: the judge; must give log-probabilities.
        pack: template `judge` and the two options.
        seed: recorded; the judgment itself is deterministic.
        known: judgments already in the ledger are returned from there and not asked again.
        checks: the opened checks of principles that are code, by `id@version`; these judge in the backend's place.
        ask_applies: ask of principles with an `applies_when` first whether they apply (template `applies`). What is
            asked of them otherwise, a constitution's own examples say, is taken to be their case.

    Yields:
        One Judgment per question, in the order of `questions`; a question that does not fit the judge's context is a
        judgment with outcome `error`, one whose options hold no mass is `invalid`.
    """
    asked = questions(
        comparisons, assigned, pack=pack, judge_model=backend.model, checks=checks, ask_applies=ask_applies
    )
    found = dict(known([question.key for question in asked])) if known else {}
    verdicts = _verdicts([q for q in asked if q.conditional and q.key not in found], backend, pack, seed)
    unpaid = {case: verdict.usage for case, verdict in verdicts.items()}  # one verdict serves several judgments
    by_code: dict[tuple[str, str], list[Question]] = {}
    for question in asked:
        verdict = verdicts.get(question.case)
        if question.key in found:
            continue
        if verdict is not None and not verdict.applies:
            found[question.key] = _left_out(question, verdict, unpaid.pop(question.case, Usage()))
        elif question.check is not None:
            by_code.setdefault((question.comparison.id, question.principle.ref), []).append(question)
    for group in by_code.values():
        one, check = group[0], group[0].check
        assert check is not None
        verdict, cost = verdicts.get(one.case), unpaid.pop(one.case, Usage())
        keys = {question.order: question.key for question in group}
        for judgment in judge_by_check(one.comparison, one.principle, check, keys, seed, verdict, cost):
            found[judgment.key] = judgment
    fresh = [question for question in asked if question.key not in found]
    fitting = [question for question in fresh if backend.room(question.dialogue) >= OPTION_TOKENS]
    likelihoods = backend.loglikelihood([q.dialogue for q in fitting], [pack.options] * len(fitting)) if fitting else []
    by_key = dict(zip((question.key for question in fitting), likelihoods, strict=True))
    for question in asked:
        if question.key in found:
            yield found[question.key]
        else:
            verdict, cost = verdicts.get(question.case), unpaid.pop(question.case, Usage())
            likelihood = by_key.get(question.key)
            yield _judgment(question, likelihood, pack.digest("judge"), backend.model, seed, verdict, cost)


def _verdicts(
    asked: Sequence[Question], backend: Backend, pack: TemplatePack, seed: int
) -> dict[tuple[str, str], Applicability]:
    """Whether principles apply, by prompt id and `id@version`; asked once of each conversation."""
    found: dict[tuple[str, str], Applicability] = {}
    for principle in {question.principle.ref: question.principle for question in asked}.values():
        comparisons = [question.comparison for question in asked if question.principle.ref == principle.ref]
        conversations = {comparison.prompt_id: comparison.messages for comparison in comparisons}
        for verdict in applies(conversations, [principle], backend=backend, pack=pack, seed=seed):
            found[verdict.prompt_id, principle.ref] = verdict
    return found


def _left_out(question: Question, verdict: Applicability, usage: Usage) -> Judgment:
    """The judgment of a principle that does not apply, or of which the judge did not say whether it does."""
    outcome: Outcome = "not_applicable"
    if verdict.applies is None:
        outcome = "invalid" if verdict.outcome == "invalid" else "error"
    return Judgment(
        key=question.key,
        comparison_id=question.comparison.id,
        principle=question.principle.ref,
        principle_digest=coded_digest(question.principle, question.check.identity if question.check else None),
        template_digest=verdict.template_digest,
        judge=verdict.judge,
        mode="applies",
        order=question.order,
        outcome=outcome,
        p_a=None,
        logprobs=verdict.logprobs,
        mass=verdict.mass,
        raw=verdict.raw if verdict.p_applies is None else raw_json({}, verdict),
        usage=usage,
        seed=verdict.seed,
    )


def _judgment(
    question: Question,
    likelihood: Likelihood | None,
    template: str,
    judge_model: str,
    seed: int,
    verdict: Applicability | None,
    before: Usage,
) -> Judgment:
    """The judge's answer; `verdict` and `before`: what it said, and spent, when asked whether the principle applies."""
    outcome: Outcome = "error"
    p_first: float | None = None
    mass: float | None = None
    if likelihood is not None:
        outcome, p_first, mass = option_probability(likelihood.logprobs)
    p_a = p_first if p_first is None or question.order == "ab" else 1 - p_first
    finite = likelihood is not None and all(map(math.isfinite, likelihood.logprobs))
    error = None if likelihood else "too long for the judge's context"
    return Judgment(
        key=question.key,
        comparison_id=question.comparison.id,
        principle=question.principle.ref,
        principle_digest=question.principle.digest,
        template_digest=template,
        judge=judge_model,
        mode="logprob",
        order=question.order,
        outcome=outcome,
        p_a=p_a,
        logprobs=likelihood.logprobs if likelihood and finite else (),
        mass=mass,
        raw=error if verdict is None else raw_json({} if error is None else {"error": error}, verdict),
        usage=Usage(prompt_tokens=before.prompt_tokens + (likelihood.prompt_tokens if likelihood else 0)),
        seed=seed,
    )
