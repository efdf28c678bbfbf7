"""What a check's scores come to: judgments of comparisons, and rounds without a revision.

In a comparison the check scores both answers, and the higher score is preferred.

A check orders answers and does not say how sure it is, so `p_a` is 1 or 0. Equal scores are a `tie` and a score that is
missing makes the pair `not_applicable`: the check has no opinion then, which is not one half. A check reads one answer
at a time, so it is asked once and both orders hold the same.
"""

from __future__ import annotations

from constitutional.checks import Check, Score, coded_digest, score
from constitutional.principles import Principle
from constitutional.records import Comparison, Judgment, Order, Outcome, RevisionRound, Usage, canonical_json, digest


def check_key(comparison_id: str, principle: Principle, check: Check, order: Order) -> str:
    """The digest of the question put to a check."""
    return digest(["check", comparison_id, principle.ref, check.identity, order])


def compare_scores(a: float | None, b: float | None) -> tuple[Outcome, float | None]:
    """(outcome, probability that `a` is the better answer) from the scores of two answers."""
    if a is None or b is None:
        return "not_applicable", None
    return ("tie", None) if a == b else ("preference", float(a > b))


def judge_by_check(
    comparison: Comparison, principle: Principle, check: Check, seed: int, orders: tuple[Order, ...]
) -> dict[str, Judgment]:
    """A comparison judged by a check, by key, in the orders asked for; an error in the check is an `error`."""
    scores = [score(check, comparison.messages, text) for text in (comparison.a, comparison.b)]
    outcome, p_a = _verdict(*scores)
    errors = [found.error for found in scores if found.error is not None]
    values = {name: found.value for name, found in zip("ab", scores, strict=True)}
    return {
        (key := check_key(comparison.id, principle, check, order)): Judgment(
            key=key,
            comparison_id=comparison.id,
            principle=principle.ref,
            principle_digest=coded_digest(principle, check.identity),
            template_digest="",
            judge=check.identity,
            mode="check",
            order=order,
            outcome=outcome,
            p_a=p_a,
            logprobs=(),
            mass=None,
            raw=errors[0] if errors else canonical_json(values),
            usage=Usage(),
            seed=seed,
        )
        for order in orders
    }


def unrevised_round(principle: Principle, check: Check, found: Score, answer: str) -> RevisionRound:
    """The round of an answer that its check passes, or says nothing of: the answer stays as it is."""
    return RevisionRound(
        principle=principle.ref,
        principle_digest=coded_digest(principle, check.identity),
        critique=None,
        revision=answer,
        flags=("not_applicable" if found.value is None else "not_needed",),
        candidate=0,
        critique_seed=None,
        revision_seed=None,
        usage=Usage(),
        check_score=found.value,
    )


def _verdict(a: Score, b: Score) -> tuple[Outcome, float | None]:
    return ("error", None) if a.error or b.error else compare_scores(a.value, b.value)
