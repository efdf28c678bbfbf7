"""The reward of RL: a weighted sum of what a preference model, a judge and checks say of a rollout, all recorded.

A part may have no opinion of a rollout (a check that does not apply, a principle not drawn for the prompt) and adds
nothing then. A part that fails leaves the rollout without a reward: it is counted, and its advantage is 0. That is all
there is of it under `rloo` and `ppo`; the loss of `grpo` has a KL term of its own, in which its tokens count as any.

A step of which no rollout has a reward ends the run where a part failed, and under `ppo` always. By TRL a step of which
no part has an opinion only teaches nothing: every advantage is 0 and no reward is logged. (The KL term of `grpo` and
what the optimiser remembers of steps before still move the weights.) A run without a single reward is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol

from accelerate.utils import gather_object

from constitutional.checks import Check
from constitutional.checks import score as check_score
from constitutional.errors import BackendError, TrainingError
from constitutional.processes import processes
from constitutional.records import Dialogue, Prompt, assistant
from constitutional.settings import RewardKind
from constitutional.training.rows import Grade, RewardPart, RewardRow, weighted_sum

OnReward = Callable[[list[RewardRow]], None]
Measured = Callable[[Sequence[RewardRow]], Mapping[str, float]]
NAME_OF_MODEL = "preference_model"


@dataclass(frozen=True)
class Scored:
    """What a part says of one rollout: a number, nothing, or what went wrong; of a judge also what that rests on."""

    value: float | None = None
    error: str | None = None
    grade: Grade | None = None


Score = Callable[[Sequence[Prompt], Sequence[str]], list[Scored]]
"""Scores some answers, none of them empty, each to the prompt beside it."""


@dataclass(frozen=True)
class RewardSource:
    """One part of a reward: what it is called (`id@version` of a principle), who says it, and its weight."""

    name: str
    kind: RewardKind
    by: str
    weight: float
    score: Score


class Scorer(Protocol):
    """What a reward needs of a preference model."""

    @property
    def model(self) -> str:
        """Its identity."""
        ...

    def score(self, dialogues: Sequence[Dialogue]) -> list[float]:
        """One number a dialogue, each of which ends with the answer that is scored."""
        ...


def by_preference_model(scorer: Scorer, weight: float = 1.0) -> RewardSource:
    """A preference model's score of the answer. One that is not finite stops the run: the model itself is broken."""

    def score(prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Scored]:
        dialogues = [(*prompt.messages, assistant(text)) for prompt, text in zip(prompts, texts, strict=True)]
        return [Scored(value) for value in scorer.score(dialogues)]

    return RewardSource(NAME_OF_MODEL, "preference_model", scorer.model, weight, score)


def by_check(ref: str, check: Check, weight: float = 1.0) -> RewardSource:
    """A principle that is code; what its function raises is an error of that rollout."""

    def score(prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Scored]:
        found = [check_score(check, prompt.messages, text) for prompt, text in zip(prompts, texts, strict=True)]
        return [Scored(one.value, one.error) for one in found]

    return RewardSource(ref, "check", check.identity, weight, score)


class Rewards:
    """Rewards of rollouts, and the running counts of what was rewarded; callable as a TRL reward function."""

    def __init__(
        self,
        sources: Sequence[RewardSource],
        prompts: Mapping[str, Prompt],
        on_reward: OnReward | None = None,
        *,
        by_prompt: bool = True,
        measured: Measured | None = None,
    ) -> None:
        """Readies the reward.

        Args:
            sources: its parts.
            prompts: by id.
            on_reward: told of each batch.
            measured: further figures of each batch, which TRL is to log beside its own.
            by_prompt: count the spread of rewards among the answers to one prompt, of which alone an algorithm without
                a critic learns; else of each batch.

        Raises:
            TrainingError: no part.
        """
        if not sources:
            raise TrainingError("there is nothing to reward rollouts by")
        self.__name__ = sources[0].name if len(sources) == 1 else "weighted_sum"  # TRL logs figures under this
        self._sources, self._prompts, self._on_reward = tuple(sources), prompts, on_reward
        self._by_prompt, self._measured = by_prompt, measured
        self._plain = len(sources) == 1 and sources[0].kind == "preference_model" and sources[0].weight == 1
        self.model = next((source.by for source in sources if source.kind == "preference_model"), None)
        """Identity of the preference model, where one takes part."""
        self.completions = 0
        self.empty = 0
        self.unrewarded = 0
        self.groups = 0
        self.zero_spread_groups = 0
        self.batches: list[list[RewardRow]] = []
        """Every batch of rows told of so far."""

    def __call__(
        self,
        *,
        completions: Sequence[Sequence[Mapping[str, str]]],
        prompt_id: Sequence[str],
        trainer_state: Any,
        log_metric: Callable[[str, float], None] | None = None,
        **_: Any,
    ) -> list[float | None]:
        """Rewards of one generation batch of TRL; None is left out of its baselines.

        Raises:
            TrainingError: something failed, and no rollout of it has a reward, on any process; or as `reward`.
        """
        texts = [completion[0]["content"] for completion in completions]
        rows = self.reward(int(trainer_state.global_step) + 1, prompt_id, texts)
        told = gather_object(rows) if processes() > 1 else rows
        self.note(told)
        if any(part.error for row in told for part in row.parts):  # else nothing is broken: TRL learns nothing from it
            require_rewarded(told)
        if log_metric is not None and len(self._sources) > 1:
            for name, value in figures(told).items():
                log_metric(name, value)
        if log_metric is not None and self._measured is not None:
            for name, value in self._measured(told).items():
                log_metric(name, value)
        return [row.score for row in rows]

    def reward(self, step: int, prompt_ids: Sequence[str], texts: Sequence[str]) -> list[RewardRow]:
        """One row a rollout, in order. An empty answer has no reward.

        Raises:
            TrainingError: a preference model gave a score that is not a number, or a part more or fewer scores than it
                was asked for; names the step.
        """
        asked = [i for i, text in enumerate(texts) if text.strip()]
        prompts, answers = [self._prompts[prompt_ids[i]] for i in asked], [texts[i] for i in asked]
        parts: dict[int, list[RewardPart]] = {i: [] for i in asked}
        for source in self._sources:
            try:
                found = source.score(prompts, answers) if asked else []
            except BackendError as error:
                if source.kind == "preference_model":
                    raise TrainingError(f"reward at step {step}: {error}") from error
                found = [Scored(error=str(error))] * len(asked)
            if len(found) != len(asked):
                raise TrainingError(
                    f"reward at step {step}: {source.name} gave {len(found)} scores for {len(asked)} rollouts"
                )
            for i, said in zip(asked, _finite(source, found, step), strict=True):
                if said != Scored():
                    parts[i].append(_part(source, said))
        return [
            RewardRow(
                prompt_id=prompt,
                step=step,
                completion=text,
                score=weighted_sum(parts.get(i, [])),
                preference_model=self.model,
                parts=() if self._plain else tuple(parts.get(i, [])),
            )
            for i, (prompt, text) in enumerate(zip(prompt_ids, texts, strict=True))
        ]

    def note(self, rows: Sequence[RewardRow]) -> None:
        """Counts the rows of a step, and tells of them."""
        self.batches.append(list(rows))
        if self._on_reward is not None:
            self._on_reward(list(rows))
        self.completions += len(rows)
        empty = sum(not row.completion.strip() for row in rows)
        self.empty += empty
        self.unrewarded += sum(row.score is None for row in rows) - empty
        for _, group in groupby(rows, key=lambda row: row.prompt_id if self._by_prompt else ""):
            present = [row.score for row in group if row.score is not None]
            self.groups += 1
            self.zero_spread_groups += len(present) < 2 or max(present) - min(present) < 1e-6

    def require_any(self) -> None:
        """Refuses a run that was never told whether anything it did was good.

        Raises:
            TrainingError: no rollout had a reward; says why.
        """
        rows = [row for batch in self.batches for row in batch]
        if all(row.score is None for row in rows):
            raise TrainingError(f"no rollout has a reward: {why_unrewarded(rows)}")


def _part(source: RewardSource, said: Scored) -> RewardPart:
    return RewardPart(
        name=source.name,
        kind=source.kind,
        by=source.by,
        weight=source.weight,
        score=said.value,
        error=said.error,
        grade=said.grade,
    )


def _finite(source: RewardSource, found: Sequence[Scored], step: int) -> list[Scored]:
    """The scores, one that is no number turned into an error of its rollout.

    Raises:
        TrainingError: it is a preference model's: the model itself is broken.
    """
    broken = [said.value for said in found if said.value is not None and not math.isfinite(said.value)]
    if broken and source.kind == "preference_model":
        raise TrainingError(f"reward at step {step}: {source.name} gave {broken[0]}")
    return [
        Scored(error=f"the score is {said.value}", grade=said.grade)
        if said.value is not None and not math.isfinite(said.value)
        else said
        for said in found
    ]


def figures(rows: Sequence[RewardRow]) -> dict[str, float]:
    """Means by part, under `rewards/NAME/mean` as TRL calls them, over the rollouts it has an opinion of."""
    scores: dict[str, list[float]] = {}
    for row in rows:
        for part in row.parts:
            if part.score is not None:
                scores.setdefault(f"rewards/{part.name}/mean", []).append(part.score)
    return {name: sum(found) / len(found) for name, found in scores.items()}


def require_rewarded(rows: Sequence[RewardRow]) -> None:
    """Refuses a step of which no rollout has a reward.

    Raises:
        TrainingError: names the step, and why.
    """
    if all(row.score is None for row in rows):
        raise TrainingError(f"no rollout of step {rows[0].step} has a reward: {why_unrewarded(rows)}")


def why_unrewarded(rows: Sequence[RewardRow]) -> str:
    """What to say when no rollout has a reward."""
    errors = [part.error for row in rows for part in row.parts if part.error]
    return errors[0] if errors else "all are empty, or no part of the reward has an opinion of them"
