"""Best-of-n distillation: the policy is fine-tuned on the best rewarded of its own answers to each prompt.

The cheap baseline of RL (Stiennon et al. 2020, appendix; Touvron et al. 2023 call it rejection sampling).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from constitutional.backends.cpu import device, prepare_process
from constitutional.errors import ConfigError, TrainingError
from constitutional.records import Prompt, Sampling, seed_for
from constitutional.training.checkpoints import Checkpoints
from constitutional.training.fitting import context_length, fitting_prompts, require_prompts
from constitutional.training.guards import OnLog
from constitutional.training.ppo.rollouts import Drawn, draw
from constitutional.training.rewards import OnReward, Rewards, RewardSource, why_unrewarded
from constitutional.training.rows import RewardRow, RlResult, SftRow
from constitutional.training.sft import train_sft
from constitutional.training.tokens import dialogue_ids, open_tokenizer
from constitutional.training.trl_settings import Settings


def train_best_of_n(
    prompts: Sequence[Prompt],
    *,
    policy: str | Path,
    rewards: Sequence[RewardSource],
    output: str | Path,
    generations: int,
    max_tokens: int,
    temperature: float,
    seed: int,
    trl: Settings | None = None,
    lora: Settings | None = None,
    on_log: OnLog | None = None,
    on_reward: OnReward | None = None,
    checkpoints: Checkpoints | None = None,
) -> RlResult:
    """Draws `generations` answers to every prompt, fine-tunes on the best of each, and saves a merged model folder.

    A prompt none of whose answers has a reward is left out.

    Args:
        prompts: what to answer; repeated ids are used once, and one that leaves no room for an answer is a Failure.
        policy: folder of the starting policy.
        rewards: the parts of the reward.
        output: folder to write; left as it was when training fails.
        generations: answers to each prompt, at least 2.
        max_tokens: longest answer.
        temperature: of the draw, above 0.
        seed: of the draws and of the order of rows.
        trl: fields of `trl.SFTConfig`.
        lora: fields of `peft.LoraConfig`; a full fine-tune when None.
        on_log: called with every set of figures TRL logs while it fine-tunes.
        on_reward: called with the rewards of all answers.
        checkpoints: what an interrupted training goes on from, and how often it is written; none when None.

    Raises:
        ConfigError: a setting or a folder that cannot be used.
        TrainingError: no prompt, no reward, or what `train_sft` raises.
    """
    if generations < 2 or temperature <= 0:
        raise ConfigError("rl: best_of_n needs at least 2 generations, drawn at a temperature above 0")
    tokenizer = open_tokenizer(policy)
    kept, failures = fitting_prompts(prompts, tokenizer, context_length(policy) - max_tokens)
    require_prompts(len(kept), 1, len(failures))
    asked = [prompt for prompt in kept.values() for _ in range(generations)]
    sampling = Sampling(temperature=temperature, max_tokens=max_tokens, seed=seed_for(seed, "rl"))
    drawn = _answers(policy, tokenizer, asked, sampling)
    reward = Rewards(rewards, kept, on_reward)
    rows = reward.reward(1, [prompt.id for prompt in asked], drawn.texts)
    reward.note(rows)
    best = [found for i in range(0, len(rows), generations) if (found := _best(rows, i, generations)) is not None]
    if not best:
        raise TrainingError(f"no answer has a reward: {why_unrewarded(rows)}")
    trained = train_sft(
        [
            SftRow(
                prompt=asked[i].messages,
                completion=drawn.texts[i],
                source_id=asked[i].id,
                principle=None,
                origin="best_of_n",
                complete=drawn.ended[i],
            )
            for i in best
        ],
        model=policy,
        output=output,
        seed=seed,
        trl=trl,
        lora=lora,
        on_log=on_log,
        checkpoints=checkpoints,
    )
    scores = [row.score for row in rows if row.score is not None]
    return RlResult(
        prompts=len(kept),
        failures=(*failures, *trained.failures),
        control_tokens=trained.control_tokens,
        steps=trained.steps,
        trainable_parameters=trained.trainable_parameters,
        completions=reward.completions,
        empty_completions=reward.empty,
        unrewarded=reward.unrewarded,
        groups=reward.groups,
        zero_spread_groups=reward.zero_spread_groups,
        first_reward=sum(scores) / len(scores),
        last_reward=None,
        last_kl=None,
        preference_model=reward.model,
        rows=trained.rows,
    )


def _answers(policy: str | Path, tokenizer: Any, asked: Sequence[Prompt], sampling: Sampling) -> Drawn:
    prepare_process()
    net = AutoModelForCausalLM.from_pretrained(str(policy), dtype=torch.float32).to(device()).eval()
    ids = [dialogue_ids(tokenizer, prompt.messages, generation_prompt=True) for prompt in asked]
    return draw(net, tokenizer, ids, sampling)


def _best(rows: Sequence[RewardRow], start: int, count: int) -> int | None:
    """Which of one prompt's answers is rewarded best, the first of equals; None where none has a reward."""
    scored = [
        (row.score, -i) for i, row in enumerate(rows[start : start + count], start=start) if row.score is not None
    ]
    return -max(scored)[1] if scored else None
