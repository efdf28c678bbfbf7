"""The reward of RL: the preference model's score of each rollout, every one of them recorded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

from constitutional.errors import BackendError, TrainingError
from constitutional.records import Prompt, assistant
from constitutional.training.rows import RewardRow
from constitutional.training.scorer import PreferenceModel

OnReward = Callable[[list[RewardRow]], None]


class PreferenceModelReward:
    """A TRL reward function around a `PreferenceModel`, and the running counts of what it saw."""

    def __init__(
        self, preference_model: PreferenceModel, prompts: Mapping[str, Prompt], on_reward: OnReward | None = None
    ) -> None:
        self.__name__ = "preference_model"  # the name TRL logs figures under
        self._preference_model = preference_model
        self._prompts = prompts
        self._on_reward = on_reward
        self.completions = 0
        self.empty = 0
        self.groups = 0
        self.zero_spread_groups = 0

    def __call__(
        self,
        *,
        completions: Sequence[Sequence[Mapping[str, str]]],
        prompt_id: Sequence[str],
        trainer_state: Any,
        **_: Any,
    ) -> list[float | None]:
        """Scores of one generation batch; None, which TRL leaves out of the baseline, for an empty completion.

        Raises:
            TrainingError: a score that is not a number, naming the step.
        """
        step = int(trainer_state.global_step) + 1
        texts = [completion[0]["content"] for completion in completions]
        scored = [i for i, text in enumerate(texts) if text.strip()]
        dialogues = [(*self._prompts[prompt_id[i]].messages, assistant(texts[i])) for i in scored]
        try:
            found = dict(zip(scored, self._preference_model.score(dialogues), strict=True))
        except BackendError as error:
            raise TrainingError(f"reward at step {step}: {error}") from error
        scores = [found.get(i) for i in range(len(texts))]
        self._count(prompt_id, scores)
        if self._on_reward is not None:
            model = self._preference_model.model
            self._on_reward(
                [
                    RewardRow(prompt_id=prompt, step=step, completion=text, score=score, preference_model=model)
                    for prompt, text, score in zip(prompt_id, texts, scores, strict=True)
                ]
            )
        return scores

    def _count(self, prompt_id: Sequence[str], scores: Sequence[float | None]) -> None:
        self.completions += len(scores)
        self.empty += sum(score is None for score in scores)
        for _, pairs in groupby(zip(prompt_id, scores, strict=True), key=lambda pair: pair[0]):
            present = [score for _, score in pairs if score is not None]
            self.groups += 1
            self.zero_spread_groups += len(present) < 2 or max(present) - min(present) < 1e-6
