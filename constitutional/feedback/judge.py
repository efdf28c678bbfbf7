"""Per-principle judgments by option log-probabilities (Bai et al. 2022, section 4.1; both orders as Lee et al. 2023).

For every comparison, principle and order the judge is asked which answer it prefers; p is the softmax over the two
options' log-probabilities. The judgment keeps both log-probabilities, the options' mass, the template, the judge, the
order and the seed. Judgments go to the ledger as they are: no clamping, no averaging, no repair.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from constitutional.backends import Backend, Likelihood
from constitutional.principles import Principle
from constitutional.records import Comparison, Dialogue, Judgment, Order, Outcome, Usage, digest, seed_for
from constitutional.templates import TemplatePack

MIN_MASS = 0.01
"""Options that together hold less probability than this were not what the model was about to say: `invalid`."""

OPTION_TOKENS = 8
"""Room kept for an option: far more than " (A)" takes."""

ORDERS: tuple[Order, Order] = ("ab", "ba")

Known = Callable[[Sequence[str]], Mapping[str, Judgment]]
"""Looks up judgments already in the ledger by key."""


@dataclass(frozen=True)
class Question:
    """One thing to ask the judge; `key` is its digest."""

    comparison: Comparison
    principle: Principle
    order: Order
    dialogue: Dialogue
    key: str


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
) -> list[Question]:
    """Every comparison under each of its principles in both orders."""
    template = pack.digest("judge")
    asked = []
    for comparison, principles in zip(comparisons, assigned, strict=True):
        for principle in principles:
            for order in ORDERS:
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
                key = digest(["logprob", comparison.id, asked_for, template, judge_model, order])
                asked.append(Question(comparison, principle, order, rendered.dialogue, key))
    return asked


def judge(
    comparisons: Sequence[Comparison],
    *,
    assigned: Sequence[Sequence[Principle]],
    backend: Backend,
    pack: TemplatePack,
    seed: int,
    known: Known | None = None,
) -> Iterator[Judgment]:
    """Judges each comparison under each of its assigned principles, in both orders.

    Args:
        comparisons: one chunk.
        assigned: per comparison, the principles it is judged under.
        backend: the judge; must give log-probabilities.
        pack: template `judge` and the two options.
        seed: recorded; the judgment itself is deterministic.
        known: judgments already in the ledger are returned from there and not asked again.

    Yields:
        One Judgment per question, in the order of `questions`; a question that does not fit the judge's context is a
        judgment with outcome `error`, one whose options hold no mass is `invalid`.
    """
    asked = questions(comparisons, assigned, pack=pack, judge_model=backend.model)
    found = known([question.key for question in asked]) if known else {}
    fresh = [question for question in asked if question.key not in found]
    fitting = [question for question in fresh if backend.room(question.dialogue) >= OPTION_TOKENS]
    likelihoods = backend.loglikelihood([q.dialogue for q in fitting], [pack.options] * len(fitting)) if fitting else []
    by_key = dict(zip((question.key for question in fitting), likelihoods, strict=True))
    for question in asked:
        if question.key in found:
            yield found[question.key]
        else:
            yield _judgment(question, by_key.get(question.key), pack.digest("judge"), backend.model, seed)


def option_probability(logprobs: Sequence[float]) -> tuple[Outcome, float | None, float | None]:
    """(outcome, probability of the first option, mass of both) from two options' log-probabilities in nats."""
    first, second = logprobs
    if math.isnan(first) or math.isnan(second):
        return "error", None, None
    mass = math.exp(min(first, 0.0)) + math.exp(min(second, 0.0))
    if mass < MIN_MASS:
        return "invalid", None, mass
    p = 1 / (1 + math.exp(min(max(second - first, -700.0), 700.0)))
    return ("tie" if first == second else "preference"), p, min(mass, 1.0)


def _judgment(
    question: Question, likelihood: Likelihood | None, template: str, judge_model: str, seed: int
) -> Judgment:
    outcome: Outcome = "error"
    p_first: float | None = None
    mass: float | None = None
    if likelihood is not None:
        outcome, p_first, mass = option_probability(likelihood.logprobs)
    p_a = p_first if p_first is None or question.order == "ab" else 1 - p_first
    finite = likelihood is not None and all(map(math.isfinite, likelihood.logprobs))
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
        raw=None if likelihood else "too long for the judge's context",
        usage=Usage(prompt_tokens=likelihood.prompt_tokens if likelihood else 0),
        seed=seed,
    )
