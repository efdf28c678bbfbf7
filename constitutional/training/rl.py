"""Reinforcement learning without a critic (after Bai et al. 2022, section 4.1): RL-CAI.

GRPO (Shao et al. 2024) or RLOO (Ahmadian et al. 2024) by TRL; the paper's PPO is `ppo`. Both hold the policy near its
start, SL-CAI, by a KL term: GRPO adds it to the loss, RLOO takes it off the reward as the paper does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from constitutional.errors import ConfigError, nearest
from constitutional.records import Prompt
from constitutional.training.checkpoints import Checkpoints, newest
from constitutional.training.fitting import context_length, fitting_prompts, require_prompts, rl_result
from constitutional.training.guards import OnLog, StepWatch, require_unique_names
from constitutional.training.launches import WATCH
from constitutional.training.lora import lora_config
from constitutional.training.resuming import quiet
from constitutional.training.rewards import OnReward, Rewards, RewardSource
from constitutional.training.rows import RewardRow, RlResult
from constitutional.training.session import in_parts, save, train, training_session
from constitutional.training.tokens import open_tokenizer
from constitutional.training.trl_settings import Settings, checked_fields, trl_config
from constitutional.training.watch.callback import WatchCallback
from constitutional.training.watch.probe import Watch
from constitutional.training.watch.watcher import open_watcher, watched

__all__ = ["RewardRow", "RlResult", "train_rl"]

Algorithm = Literal["grpo", "rloo"]
TRAINERS: dict[str, tuple[type[Any], type[Any]]] = {
    "grpo": (GRPOConfig, GRPOTrainer),
    "rloo": (RLOOConfig, RLOOTrainer),
}
LARGEST_MICRO_BATCH = 8


def train_rl(
    prompts: Sequence[Prompt],
    *,
    policy: str | Path,
    rewards: Sequence[RewardSource],
    output: str | Path,
    algorithm: Algorithm,
    steps: int,
    kl: float,
    generations: int,
    prompts_per_step: int,
    max_tokens: int,
    temperature: float,
    seed: int,
    trl: Settings | None = None,
    lora: Settings | None = None,
    on_log: OnLog | None = None,
    on_reward: OnReward | None = None,
    checkpoints: Checkpoints | None = None,
    watching: Watch | None = None,
) -> RlResult:
    """Trains a policy against a reward and saves a merged model folder.

    A prompt that leaves no room for `max_tokens` in the policy's context becomes a Failure. Each step takes the next
    `prompts_per_step` prompts and draws `generations` completions of each.

    Args:
        prompts: what to answer, in this order; repeated ids are used once.
        policy: folder of the starting policy, also the reference of the KL term.
        rewards: the parts of the reward.
        output: folder to write; left as it was when training fails.
        algorithm: "grpo" or "rloo".
        steps: optimiser steps.
        kl: coefficient of the KL term; 0 keeps no reference.
        generations: completions a prompt and step, at least 2.
        prompts_per_step: different prompts a step.
        max_tokens: longest completion.
        temperature: of the policy's sampling.
        seed: of the sampling.
        trl: further fields of `trl.GRPOConfig` or `trl.RLOOConfig`.
        lora: fields of `peft.LoraConfig`, the reference is the policy without adapters; a full fine-tune when None.
        on_log: called with every set of figures TRL logs, `step` and `steps` (of the whole run) added.
        on_reward: called with the rewards of each generation batch.
        checkpoints: what an interrupted training goes on from, and how often it is written; none when None.
        watching: what the run is watched by, and when that ends it.

    Raises:
        ConfigError: a setting or a folder that cannot be used.
        TrainingError: too few prompts, nothing trainable, no step, no change, a step that failed parts leave without
            any reward, a run without any, a figure that is not a number, a reference that is not the starting policy,
            or a starting policy that breaks a rule of the watch.
    """
    tokenizer = open_tokenizer(policy)
    tokenizer.padding_side = "left"  # generation continues the last position
    rollouts = {
        "max_steps": steps,
        "beta": kl,
        "num_generations": generations,
        "max_completion_length": max_tokens,
        "temperature": temperature,
        "seed": seed,
    }
    with training_session(output) as folder:
        args = rl_config(algorithm, folder, rollouts=rollouts, completions=generations * prompts_per_step, passed=trl)
        context = context_length(policy)
        kept, failures = fitting_prompts(prompts, tokenizer, context - max_tokens)
        require_prompts(len(kept), prompts_per_step, len(failures))
        watch = StepWatch(on_log, kl_expected=kl != 0)
        watcher = open_watcher(
            watching, rewards, tokenizer, watch, context=context, steps=steps, max_tokens=max_tokens, seed=seed
        )
        reward = Rewards(rewards, kept, on_reward, measured=watcher.measure if watcher else None)
        last = newest(checkpoints)
        trainer = TRAINERS[algorithm][1](
            str(policy),
            [reward],
            args=args,
            train_dataset=Dataset.from_list([_row(prompt) for prompt in kept.values()]),
            processing_class=tokenizer,
            callbacks=[watch, *([WatchCallback(watcher, last.folder if last else None)] if watcher else [])],
            peft_config=lora_config(lora, "CAUSAL_LM"),
        )
        require_unique_names(trainer.reward_func_names)
        if watcher is not None and in_parts(trainer):
            raise ConfigError(WATCH)
        with quiet(type(trainer).__module__):  # it prints a rollout without a reward; ours are counted and kept
            done, weights = train(trainer, checkpoints, reward)
        if watcher is not None:
            watcher.settle(trainer.model)
        save(trainer, tokenizer, folder)
    result = rl_result(
        kept, failures, reward=reward, watch=watch, steps=done, trainable=weights.trainable, tokenizer=tokenizer
    )
    return watched(result, watcher)


def rl_config(
    algorithm: str, folder: Path, *, rollouts: Mapping[str, object], completions: int, passed: Settings | None
) -> Any:
    """The TRL config of a run in which every optimiser step uses one fresh batch of `completions` rollouts.

    Raises:
        ConfigError: an unknown algorithm, a number too small to train with, or a field TRL refuses.
    """
    if algorithm not in TRAINERS:
        raise ConfigError(f"unknown algorithm '{algorithm}'{nearest(algorithm, TRAINERS)}")
    for name, least in (("max_steps", 1), ("num_generations", 2), ("max_completion_length", 1)):
        if int(str(rollouts[name])) < least:
            raise ConfigError(f"rl: {name} is {rollouts[name]}, expected at least {least}")
    if completions < 1:
        raise ConfigError("rl: prompts_per_step is expected to be at least 1")
    config_class = TRAINERS[algorithm][0]
    chosen = checked_fields(config_class, passed or {}, key="trl").get("per_device_train_batch_size")
    micro = chosen or max(n for n in range(1, LARGEST_MICRO_BATCH + 1) if completions % n == 0)
    if completions % micro:
        raise ConfigError(
            f"trl.per_device_train_batch_size: {micro} does not divide the {completions} completions of a step"
        )
    fixed = {
        **rollouts,
        "gradient_accumulation_steps": completions // micro,
        "shuffle_dataset": False,  # the caller's order is what it wants the first steps to see
        "chat_template_kwargs": {"sanitize_control_tokens": True},
    }
    defaults = {"per_device_train_batch_size": micro, "learning_rate": 5e-6, "num_completions_to_print": 0}
    return trl_config(config_class, folder, fixed=fixed, defaults=defaults, passed=passed)


def _row(prompt: Prompt) -> dict[str, object]:
    messages = [{"role": message.role, "content": message.content} for message in prompt.messages]
    return {"prompt": messages, "prompt_id": prompt.id}
