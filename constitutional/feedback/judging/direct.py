"""One answer graded alone under one principle: the reward of direct RLAIF (Lee et al. 2023, section 2.3).

The grades and their scale are those of the mode `score`: the expected grade, from -1 to 1. What the judge cannot say is
an error of that answer, never a grade.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from constitutional.backends import Backend
from constitutional.feedback.judging.score import expected_score, grade
from constitutional.feedback.judging.ways import TOO_LONG
from constitutional.feedback.options import MIN_MASS
from constitutional.principles import Principle
from constitutional.records import Dialogue
from constitutional.templates import TemplatePack


@dataclass(frozen=True)
class DirectGrade:
    """The expected grade of one answer, or why there is none; and the log-probabilities it comes from, with their mass.

    `logprobs` are none where one of them is not finite.
    """

    value: float | None
    error: str | None = None
    logprobs: tuple[float, ...] = ()
    mass: float | None = None


def grade_answers(
    conversations: Sequence[Dialogue],
    answers: Sequence[str],
    principle: Principle,
    *,
    backend: Backend,
    pack: TemplatePack,
) -> list[DirectGrade]:
    """The judge's grade of each answer to the conversation beside it, in order."""
    asked = [
        pack.render(
            "score", conversation=conversation, answer=answer, score_request=principle.score_request or ""
        ).dialogue
        for conversation, answer in zip(conversations, answers, strict=True)
    ]
    found = []
    for grading in grade(asked, backend, pack.grades):
        if grading is None:
            found.append(DirectGrade(None, TOO_LONG))
            continue
        kept = grading.logprobs if all(map(math.isfinite, grading.logprobs)) else ()
        if grading.fault is not None:
            found.append(DirectGrade(None, grading.fault))
        elif math.isnan(grading.mass):
            found.append(DirectGrade(None, "the judge gave a grade that is not a number"))
        elif grading.mass < MIN_MASS:
            found.append(DirectGrade(None, "the judge gave no grade", kept, grading.mass))
        else:
            found.append(DirectGrade(expected_score(grading.shares), None, kept, grading.mass))
    return found
