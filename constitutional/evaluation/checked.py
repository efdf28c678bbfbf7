"""Held-out answers under principles that are code: each answer's score, and the share that passes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from constitutional.checks import PASSES, Check, coded_digest, score
from constitutional.evaluation.answers import SYSTEMS, EvaluatedAnswer, System
from constitutional.principles import Principle
from constitutional.records import Failure, Prompt, PromptKind, Record
from constitutional.statistics import Rate, rate


class CheckScore(Record):
    """What one check said of one held-out answer; `score` is None where it does not apply, or `error` says what failed.

    `principle_digest` covers the code; `check` names the function and its version.
    """

    answer_id: str
    principle: str
    principle_digest: str
    check: str
    score: float | None
    error: str | None = None


class CheckRow(Record):
    """One system's answers to one kind of prompts under one principle that is code.

    `passed` counts scores of at least one half among the answers that have a score; the others are counted beside it.
    All answers are scored: a check says for itself what it does not apply to, and `applies_when` is not asked.
    """

    principle: str
    system: System
    kind: PromptKind
    passed: Rate
    not_applicable: int
    errors: int


def score_answers(
    answers: Sequence[EvaluatedAnswer],
    prompts: Sequence[Prompt],
    principles: Sequence[Principle],
    checks: Mapping[str, Check],
) -> Iterator[CheckScore]:
    """Every answer under every check, answer by answer.

    Args:
        answers: of all systems.
        prompts: those they answer.
        principles: those without a check are passed over.
        checks: the opened checks, by `id@version`.
    """
    conversations = {prompt.id: prompt.messages for prompt in prompts}
    for answer in answers:
        for principle in principles:
            if (check := checks.get(principle.ref)) is not None:
                found = score(check, conversations[answer.prompt_id], answer.text)
                yield CheckScore(
                    answer_id=answer.id,
                    principle=principle.ref,
                    principle_digest=coded_digest(principle, check.identity),
                    check=check.identity,
                    score=found.value,
                    error=found.error,
                )


def check_rows(scores: Sequence[CheckScore], answers: Iterable[EvaluatedAnswer]) -> tuple[CheckRow, ...]:
    """One row a principle, system and kind of prompts, in this order."""
    by_id = {answer.id: answer for answer in answers}
    groups: dict[tuple[str, System, PromptKind], list[CheckScore]] = {}
    for found in scores:
        answer = by_id[found.answer_id]
        groups.setdefault((found.principle, answer.system, answer.kind), []).append(found)
    place = {ref: i for i, ref in enumerate(dict.fromkeys(found.principle for found in scores))}
    ordered = sorted(groups, key=lambda key: (place[key[0]], SYSTEMS.index(key[1])))
    return tuple(_row(*key, groups[key]) for key in ordered)


def failures(scores: Iterable[CheckScore]) -> list[Failure]:
    """The answers a check could not score."""
    return [
        Failure(item_id=found.answer_id, stage="evaluate", kind="check_error", message=found.error)
        for found in scores
        if found.error is not None
    ]


def _row(principle: str, system: System, kind: PromptKind, scores: Sequence[CheckScore]) -> CheckRow:
    values = [found.score for found in scores if found.score is not None]
    errors = sum(found.error is not None for found in scores)
    return CheckRow(
        principle=principle,
        system=system,
        kind=kind,
        passed=rate(sum(value >= PASSES for value in values), len(values)),
        not_applicable=len(scores) - len(values) - errors,
        errors=errors,
    )
