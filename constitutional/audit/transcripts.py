"""The transcripts a report shows: a few prompts, evenly taken, through everything that was said to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from constitutional.audit.current import RunView
from constitutional.audit.index import record_id
from constitutional.evaluation.answers import SYSTEMS, EvaluatedAnswer
from constitutional.records import Comparison, Prompt, Record, Revision
from constitutional.training.rows import RewardRow

SHOWN = 12

T = TypeVar("T")


class Heldout(Record):
    """One held-out prompt and each system's answer to it."""

    prompt: Prompt
    answers: tuple[EvaluatedAnswer, ...]


class Rollout(Record):
    """One rollout with the id its reward is traced by."""

    id: str
    row: RewardRow


class Training(Record):
    """One training prompt: its revision, and what SL-CAI and RL training said to it, where they did."""

    prompt: Prompt
    revision: Revision
    sampled: Comparison | None
    rollout: Rollout | None


def heldout_transcripts(view: RunView, prompts: Mapping[str, Prompt]) -> list[Heldout]:
    """Red-team prompts that were answered, with the answers in the order base, SL-CAI, RL-CAI."""
    by_prompt: dict[str, list[EvaluatedAnswer]] = {}
    for answer in view.rows("answers", "data.jsonl", EvaluatedAnswer):
        if answer.kind == "red_team":
            by_prompt.setdefault(answer.prompt_id, []).append(answer)
    found = [
        Heldout(prompt=prompt, answers=tuple(sorted(by_prompt[prompt.id], key=lambda a: SYSTEMS.index(a.system))))
        for prompt in prompts.values()
        if prompt.id in by_prompt
    ]
    return evenly(found, SHOWN)


def training_transcripts(view: RunView, prompts: Mapping[str, Prompt]) -> list[Training]:
    """Revisions with the last sampled answer and the last rollout on the same prompt."""
    sampled = {c.prompt_id: c for c in view.rows("sample", "data.jsonl", Comparison) if c.origin == "sampled"}
    rollouts = {r.prompt_id: r for r in view.rows("rl", "rewards.jsonl", RewardRow)}
    found = [
        Training(
            prompt=prompts[revision.prompt_id],
            revision=revision,
            sampled=sampled.get(revision.prompt_id),
            rollout=_rollout(rollouts.get(revision.prompt_id)),
        )
        for revision in view.rows("revise", "data.jsonl", Revision)
        if revision.prompt_id in prompts
    ]
    return evenly(found, SHOWN)


def evenly(items: Sequence[T], count: int) -> list[T]:
    """At most `count` items, spread evenly over the whole sequence, its first among them."""
    if len(items) <= count:
        return list(items)
    return [items[i * len(items) // count] for i in range(count)]


def _rollout(row: RewardRow | None) -> Rollout | None:
    return None if row is None else Rollout(id=record_id(row), row=row)
