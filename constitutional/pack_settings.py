"""What a template pack says beside its templates: the texts a judge answers with, stop texts, few-shots."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from constitutional.few_shots import NO_SHOTS, FewShots
from constitutional.records import Record

ANSWERS = {"applies": {"yes_no"}, "score": {"grades"}, "judge_cot": {"options", "conclusion"}}
"""The settings a template is answered with, where these are not just the options."""

Grade = Annotated[str, Field(pattern=r"\S")]
GRADES = tuple(f" {grade}" for grade in range(1, 11))


def _differ(grades: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(grades)) < len(grades):
        raise ValueError("two grades are the same text")
    return grades


class PackSettings(Record):
    """What `pack.yaml` holds.

    `options` are the two continuations a judge chooses between, first and second answer; `yes_no` those it chooses
    between when asked whether a principle applies. `conclusion` stands between a drawn reasoning and the options;
    `grades` are the continuations an answer is graded with, the lowest first. `extends` names the pack (a folder beside
    this one, or a name) whose templates and settings stand in for those that are missing.
    """

    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$", max_length=80)]
    version: Annotated[str, Field(pattern=r"^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)$")]
    title: str
    extends: str | None = None
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    options: tuple[str, str]
    yes_no: tuple[str, str] = (" Yes", " No")
    conclusion: str = "\n\nSo the answer is:"
    grades: Annotated[tuple[Grade, ...], Field(min_length=2), AfterValidator(_differ)] = GRADES
    few_shots: FewShots = NO_SHOTS
