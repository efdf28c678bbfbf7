"""What one part of a rollout's reward rests on: principle, template and judge, or the code of a check."""

from __future__ import annotations

from constitutional.audit.agreement import grade_agrees
from constitutional.audit.index import Index
from constitutional.audit.trace_node import (
    Fact,
    TraceNode,
    check,
    code_of,
    logprobs_text,
    model_facts,
    principle_node,
    said_by,
    said_facts,
    template_facts,
)
from constitutional.training.rows import Grade, RewardPart


def part_node(ix: Index, part: RewardPart) -> TraceNode:
    """A part of a reward. A judge's goes down to the principle it was asked under, a check's to the one that is it."""
    said = "does not apply" if part.silent else part.error or f"{part.score:.4f}"
    facts: list[Fact] = [("weight", f"{part.weight:g}")]
    children: list[TraceNode] = []
    if part.kind == "judge":
        facts += model_facts(ix, "judge", part.by, "judge") + _graded(ix, part.grade) + grade_agrees(part)
        digest = part.grade.principle_digest if part.grade else None
        children.append(principle_node(ix, part.name, digest, ("score_request", "applies_when")))
    elif part.kind == "check":
        known = code_of(ix, part.name)
        facts += [("judge", part.by)]
        facts += check(part.by in known, f"the run locked {known} as this principle's code, not {part.by}")
        children.append(principle_node(ix, part.name, None, ("check",)))
    else:
        facts += [("by", part.by)]
    return TraceNode(kind=part.kind, id=part.name, title=said, facts=tuple(facts), children=tuple(children))


def _graded(ix: Index, grade: Grade | None) -> list[Fact]:
    facts: list[Fact] = [("order", "none: the answer is graded alone")]
    if grade is None:
        return [*facts, ("template, grades", "not kept by the version that wrote the row: see the step's")]
    facts += template_facts(ix, [grade.template_digest])
    facts += [("log-probabilities", logprobs_text(grade.logprobs))]
    facts += [("mass", "none" if grade.mass is None else f"{grade.mass:.4f}")]
    return facts + (said_facts(grade.applies) + said_by(ix, grade.applies) if grade.applies else [])
