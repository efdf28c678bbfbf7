"""Principles that are only for some conversations: the judge is asked first, and what does not apply is left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from constitutional.backends import Backend
from constitutional.checks import coded_digest
from constitutional.feedback.applies import Applicability, applies
from constitutional.feedback.checked import raw_json
from constitutional.feedback.judging.ways import Judge, Question
from constitutional.records import Judgment, Outcome, Usage
from constitutional.templates import TemplatePack


def case_verdicts(
    asked: Sequence[Question], judge: Judge, pack: TemplatePack, seed: int
) -> dict[tuple[str, str], Applicability]:
    """Whether principles apply, by prompt id and `id@version`; asked once of each conversation."""
    found: dict[tuple[str, str], Applicability] = {}
    backend = cast(Backend, judge)
    for principle in {question.principle.ref: question.principle for question in asked}.values():
        comparisons = [question.comparison for question in asked if question.principle.ref == principle.ref]
        conversations = {comparison.prompt_id: comparison.messages for comparison in comparisons}
        for verdict in applies(conversations, [principle], backend=backend, pack=pack, seed=seed):
            found[verdict.prompt_id, principle.ref] = verdict
    return found


def left_out(question: Question, verdict: Applicability, usage: Usage) -> Judgment:
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
