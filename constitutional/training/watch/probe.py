"""A probe: what the policy says now to prompts that it is never trained on, and what that is worth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object

from constitutional.errors import ConfigError
from constitutional.records import Failure, Prompt, PromptKind, Record, Sampling, seed_for
from constitutional.settings.watch import WatchSettings
from constitutional.text_metrics import Ngram
from constitutional.training.fitting import fitting_prompts
from constitutional.training.ppo.rollouts import draw
from constitutional.training.rewards import Rewards, RewardSource
from constitutional.training.rows import RewardPart, RewardRow
from constitutional.training.tokens import dialogue_ids
from constitutional.training.watch.figures import answer_figures, mean, standard_error
from constitutional.training.watch.records import WatchEvent


class ProbeAnswer(Record):
    """One answer of a probe.

    `reward` is by the reward of training, of which `parts` tells more where it has several; `heldout_reward` by the
    source kept out of training. Both are None of an empty answer and of one to a canary; where a source failed, `error`
    says how. `refused` is the detector's word on the answer to a canary.
    """

    step: int
    prompt_id: str
    kind: PromptKind
    text: str
    ended: bool
    reward: float | None
    heldout_reward: float | None
    refused: bool | None
    parts: tuple[RewardPart, ...] = ()
    error: str | None = None


@dataclass(frozen=True)
class Watch:
    """What a run is watched by. All prompts are kept out of training.

    `heldout` are the parts of the held-out reward; `refuses` tells whether an answer to a canary is a refusal, and is
    needed where there are canaries.
    """

    settings: WatchSettings
    prompts: Sequence[Prompt]
    canaries: Sequence[Prompt] = ()
    heldout: Sequence[RewardSource] = ()
    refuses: Callable[[Prompt, str], bool] | None = None
    on_event: Callable[[WatchEvent], None] | None = None
    on_answers: Callable[[Sequence[ProbeAnswer]], None] | None = None


class Probe:
    """Asks a policy the same prompts, from the same random stream, as often as it is called."""

    def __init__(
        self, watch: Watch, rewards: Sequence[RewardSource], tokenizer: Any, *, context: int, max_tokens: int, seed: int
    ) -> None:
        """Readies the prompts.

        Args:
            watch: what to ask, and who scores besides the reward.
            rewards: the parts of the reward that training uses.
            tokenizer: the policy's.
            context: tokens the policy attends to.
            max_tokens: longest rollout of the run; longest answer where the settings name none.
            seed: of the run.

        Raises:
            ConfigError: no prompt leaves room for an answer, or canaries without a detector of refusals.
        """
        settings = watch.settings
        length = settings.max_tokens or max_tokens
        prompts, long_prompts = fitting_prompts(watch.prompts, tokenizer, context - length)
        canaries, long_canaries = fitting_prompts(watch.canaries, tokenizer, context - length)
        if not prompts:
            raise ConfigError(f"watch: none of {len(watch.prompts)} prompts leaves room for {length} tokens of answer")
        if canaries and watch.refuses is None:
            raise ConfigError("watch: canaries need a detector of refusals")
        self.prompts, self.canaries = tuple(prompts.values()), tuple(canaries.values())
        self.failures: tuple[Failure, ...] = (*long_prompts, *long_canaries)
        self._refuses, self._tokenizer = watch.refuses, tokenizer
        self._sampling = Sampling(
            temperature=settings.temperature, max_tokens=length, seed=seed_for(seed, "rl", "probe")
        )
        self._rewards = Rewards(rewards, prompts)
        self._heldout = Rewards(watch.heldout, prompts) if watch.heldout else None

    def ask(self, net: Any, step: int, autocast: AbstractContextManager[Any] | None = None) -> list[ProbeAnswer]:
        """Answers of the policy as it is after a step, in the order of prompts and canaries.

        Each process asks its share, and all of them get every answer.

        Raises:
            TrainingError: a preference model gave a score that is not a number.
        """
        state = PartialState()
        asked = [*self.prompts, *self.canaries]
        mine = list(range(len(asked)))[state.process_index :: state.num_processes]
        ids = [dialogue_ids(self._tokenizer, asked[i].messages, generation_prompt=True) for i in mine]
        training = net.training
        net.eval()
        try:
            with autocast or nullcontext():
                drawn = draw(net, self._tokenizer, ids, self._sampling) if mine else None
        finally:
            net.train(training)
        texts, ended = (drawn.texts, drawn.ended) if drawn else ([], [])
        scored = [place for place, i in enumerate(mine) if i < len(self.prompts)]
        of, said = [asked[mine[place]].id for place in scored], [texts[place] for place in scored]
        rows = dict(zip(scored, self._rewards.reward(step, of, said), strict=True))
        heldout: dict[int, RewardRow] = {}
        if self._heldout is not None:
            heldout = dict(zip(scored, self._heldout.reward(step, of, said), strict=True))
        told = [
            (i, self._answer(step, asked[i], texts[place], ended[place], rows.get(place), heldout.get(place)))
            for place, i in enumerate(mine)
        ]
        return [answer for _, answer in sorted(gather_object(told), key=lambda pair: pair[0])]

    def _answer(
        self, step: int, prompt: Prompt, text: str, ended: bool, row: RewardRow | None, heldout: RewardRow | None
    ) -> ProbeAnswer:
        parts = [*(row.parts if row else ()), *(heldout.parts if heldout else ())]
        return ProbeAnswer(
            step=step,
            prompt_id=prompt.id,
            kind=prompt.kind,
            text=text,
            ended=ended,
            reward=row.score if row else None,
            heldout_reward=heldout.score if heldout else None,
            refused=None if row or self._refuses is None else self._refuses(prompt, text),
            parts=row.parts if row else (),
            error=next((part.error for part in parts if part.error is not None), None),
        )


def probe_figures(
    answers: Sequence[ProbeAnswer], start: Mapping[str, float | None], before: Mapping[Ngram, float]
) -> dict[str, float | None]:
    """The figures of a probe, None where nothing could be measured.

    Args:
        answers: at least one; `probe/reward_error` and `probe/heldout_reward_error` are standard errors over them.
        start: figures of the starting policy's probe; empty while that one is the one at hand.
        before: the phrases of the starting policy's answers.
    """
    texts, prompts = [answer.text for answer in answers], [answer.prompt_id for answer in answers]
    found: dict[str, float | None] = {f"probe/{k}": v for k, v in answer_figures(texts, prompts, before).items()}
    found["probe/clipped_ratio"] = sum(not answer.ended for answer in answers) / len(answers)
    rewards, heldout = [answer.reward for answer in answers], [answer.heldout_reward for answer in answers]
    found["probe/reward"], found["probe/reward_error"] = mean(rewards), standard_error(rewards)
    found["probe/heldout_reward"], found["probe/heldout_reward_error"] = mean(heldout), standard_error(heldout)
    found["probe/refusal"] = mean([float(answer.refused) for answer in answers if answer.refused is not None])
    gains = [_gain(found, start, name) for name in ("probe/reward", "probe/heldout_reward")]
    found["probe/gap"] = None if gains[0] is None or gains[1] is None else gains[0] - gains[1]
    scores: dict[str, list[float]] = {}
    for answer in answers:
        for part in answer.parts:
            if part.score is not None:
                scores.setdefault(f"probe/rewards/{part.name}", []).append(part.score)
    return found | {name: mean(values) for name, values in scores.items()}


def _gain(found: Mapping[str, float | None], start: Mapping[str, float | None], name: str) -> float | None:
    now, then = found[name], (start or found)[name]
    return None if now is None or then is None else now - then
