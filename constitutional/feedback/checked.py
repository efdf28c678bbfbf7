"""What a check's scores come to: judgments of comparisons, and rounds without a revision.

In a comparison the higher of the two scores is preferred. A check orders answers and does not say how sure it is, so
`p_a` is 1 or 0. Equal scores are a `tie` and a score that is missing makes the pair `not_applicable`: the check has no
opinion then, which is not one half. It reads one answer at a time, so it is asked once and both orders say the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from constitutional.checks import Check, Score, coded_digest, score
from constitutional.feedback.applies import Applicability
from constitutional.principles import Principle
from constitutional.records import Comparison, Judgment, Order, Outcome, RevisionRound, Usage, canonical_json

NOTHING = Usage()


def compare_scores(a: float | None, b: float | None) -> tuple[Outcome, float | None]:
    """(outcome, probability that `a` is the better answer) from the scores of two answers."""
    if a is None or b is None:
        return "not_applicable", None
    return ("tie", None) if a == b else ("preference", float(a > b))


def judge_by_check(
    comparison: Comparison,
    principle: Principle,
    check: Check,
    keys: Mapping[Order, str],
    seed: int,
    verdict: Applicability | None = None,
    usage: Usage = NOTHING,
) -> Iterator[Judgment]:
    """A comparison judged by a check, which is asked once; an error in the check is an `error`.

    Args:
        comparison: the two answers.
        principle: the principle that is code.
        check: its opened check.
        keys: digests of the questions, one an order.
        seed: only recorded.
        verdict: recorded where a judge was asked first whether the principle applies.
        usage: what that cost; recorded with the first judgment.
    """
    texts = {"a": comparison.a, "b": comparison.b}
    scores = {name: score(check, comparison.messages, text) for name, text in texts.items()}
    errors = [found.error for found in scores.values() if found.error is not None]
    outcome, p_a = ("error", None) if errors else compare_scores(scores["a"].value, scores["b"].value)
    said = {name: found.value for name, found in scores.items()}
    plain = errors[0] if errors else canonical_json(said)
    raw = plain if verdict is None else raw_json({"error": errors[0]} if errors else said, verdict)
    for order, key in keys.items():
        yield Judgment(
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
            raw=raw,
            usage=usage,
            seed=seed,
        )
        usage = NOTHING


def raw_json(said: Mapping[str, object], verdict: Applicability) -> str:
    """What a judgment keeps beside its figures, with the answer to whether the principle applies that it rests on."""
    return canonical_json({**said, "applies": verdict.said.model_dump(mode="json")})


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
