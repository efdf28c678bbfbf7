"""The PPO stage: draw, reward, appraise, improve, step after step; then a saved, merged policy."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, gather_object

from constitutional.backends.cpu import fast_dtype
from constitutional.errors import ConfigError
from constitutional.records import Prompt, Sampling, seed_for
from constitutional.settings import PpoSettings
from constitutional.training.checkpoints import Checkpoints, newest
from constitutional.training.fitting import context_length, fitting_prompts, require_prompts, rl_result
from constitutional.training.folders import save_merged
from constitutional.training.guards import OnLog, StepWatch, WeightWatch
from constitutional.training.launches import PPO
from constitutional.training.ppo.losses import next_kl
from constitutional.training.ppo.networks import ActorCritic, open_networks
from constitutional.training.ppo.resuming import keep_progress, restore_progress
from constitutional.training.ppo.rollouts import draw, lay_out, scores_tensor
from constitutional.training.ppo.update import appraise, improve, totals
from constitutional.training.prefix_sharing import sharing_prefixes
from constitutional.training.rewards import OnReward, Rewards, RewardSource, figures, require_rewarded
from constitutional.training.rows import RewardRow, RlResult
from constitutional.training.session import naming_the_last, training_session
from constitutional.training.tokens import dialogue_ids, open_tokenizer
from constitutional.training.trl_settings import Settings
from constitutional.training.watch.callback import lower
from constitutional.training.watch.probe import Watch
from constitutional.training.watch.watcher import open_watcher, watched

DEFAULTS = PpoSettings()


def train_ppo(
    prompts: Sequence[Prompt],
    *,
    policy: str | Path,
    rewards: Sequence[RewardSource],
    preference_model: str | Path | None,
    output: str | Path,
    steps: int,
    kl: float,
    generations: int,
    prompts_per_step: int,
    max_tokens: int,
    temperature: float,
    seed: int,
    settings: PpoSettings = DEFAULTS,
    lora: Settings | None = None,
    on_log: OnLog | None = None,
    on_reward: OnReward | None = None,
    checkpoints: Checkpoints | None = None,
    watching: Watch | None = None,
) -> RlResult:
    """Trains a policy by PPO and saves a merged model folder.

    Each step draws `generations` answers to each of the next `prompts_per_step` prompts, in the order given and around
    again. Under `torchrun` or `accelerate launch` each process draws its share; the update is that of one process (each
    of several mini-batches then holds a share of every process's rollouts).

    Args:
        prompts: what to answer; repeated ids are used once, and one that leaves no room for an answer is a Failure.
        policy: folder of the starting policy, also the reference of the KL penalty.
        rewards: the parts of the reward.
        preference_model: folder the critic starts from, where `settings.critic` says so.
        output: folder to write; left as it was when training fails.
        steps: batches of rollouts.
        kl: coefficient of the KL penalty per token; 0 keeps no reference.
        generations: rollouts a prompt and step.
        prompts_per_step: different prompts a step, a multiple of the number of processes.
        max_tokens: longest rollout.
        temperature: of the draw, above 0; log-probabilities are those at this temperature.
        seed: of the draws, the order within an epoch, and new adapters.
        settings: PPO's own.
        lora: fields of `peft.LoraConfig`, the reference is the policy without adapters; a full fine-tune when None.
        on_log: called with each step's figures, `step` and `steps` added.
        on_reward: called with the rewards of each step.
        checkpoints: what an interrupted training goes on from, and how often it is written; none when None.
        watching: what the run is watched by, and when that ends it.

    Raises:
        ConfigError: a setting or a folder that cannot be used.
        TrainingError: too few prompts, a step without any reward, no change, a figure that is not a number, a
            reference that is not the starting policy, or a starting policy that breaks a rule of the watch.
    """
    _check(steps=steps, generations=generations, prompts_per_step=prompts_per_step, max_tokens=max_tokens)
    if temperature <= 0:
        raise ConfigError(f"rl: ppo explores by drawing; temperature is {temperature}, expected more than 0")
    tokenizer = open_tokenizer(policy)
    context = context_length(policy)
    kept, failures = fitting_prompts(prompts, tokenizer, context - max_tokens)
    require_prompts(len(kept), prompts_per_step, len(failures))
    accelerator = _accelerator()
    share = _share(prompts_per_step, generations, settings, accelerator.num_processes)
    with training_session(output) as folder, naming_the_last(checkpoints), ExitStack() as stack:
        torch.manual_seed(seed)  # of new adapters
        networks = open_networks(
            policy,
            preference_model,
            critic=settings.critic,
            lora=lora,
            temperature=temperature,
            device=accelerator.device,
            referred=kl != 0,
        )
        stack.enter_context(sharing_prefixes(*networks.readers))
        weights = WeightWatch(networks.actor_critic.policy)
        model, optimizer = accelerator.prepare(networks.actor_critic, _optimizer(networks.actor_critic, settings))
        reward = Rewards(rewards, kept, on_reward if accelerator.is_main_process else None, by_prompt=False)
        watch = StepWatch(on_log if accelerator.is_main_process else None, kl_expected=kl != 0)
        watcher = open_watcher(
            watching, rewards, tokenizer, watch, context=context, steps=steps, max_tokens=max_tokens, seed=seed
        )
        order = torch.Generator().manual_seed(seed)
        queue = list(kept.values())
        last = newest(checkpoints)
        if last is not None:
            kl = restore_progress(accelerator, last, order=order, watch=watch, reward=reward, watcher=watcher)
        elif watcher is not None:
            watcher.begin(networks.actor_critic.policy, accelerator.autocast())
        for step in range(last.step + 1 if last is not None else 1, steps + 1):
            first = (step - 1) * prompts_per_step + accelerator.process_index * share
            asked = [queue[(first + i) % len(queue)] for i in range(share) for _ in range(generations)]
            sampling = Sampling(temperature=temperature, max_tokens=max_tokens, seed=seed_for(seed, "rl", step))
            ids = [dialogue_ids(tokenizer, prompt.messages, generation_prompt=True) for prompt in asked]
            with accelerator.autocast():
                drawn = draw(networks.actor_critic.policy, tokenizer, ids, sampling)
            rows = reward.reward(step, [prompt.id for prompt in asked], drawn.texts)
            told = gather_object(rows)
            reward.note(told)
            require_rewarded(told)
            scores = [row.score for row in told if row.score is not None]
            layout = lay_out(drawn, [row.score is not None for row in rows], tokenizer.pad_token_id, accelerator.device)
            batch, found = appraise(
                model,
                networks.reference,
                layout,
                scores_tensor([row.score for row in rows], accelerator.device),
                kl=kl,
                temperature=temperature,
                settings=settings,
                accelerator=accelerator,
            )
            found |= improve(model, optimizer, batch, settings=settings, accelerator=accelerator, generator=order)
            found |= {"kl_coefficient": kl, **_of_rewards(told, scores), **_of_lengths(drawn, accelerator)}
            if watcher is not None:
                found |= {"learning_rate": optimizer.param_groups[0]["lr"], **watcher.measure(told)}
            watch.record(step, steps, found)
            if watcher is not None:
                factor = watcher.after_step(step, found, networks.actor_critic.policy, accelerator.autocast())
                lower(factor, optimizer)
                if watcher.ended:
                    break
            if settings.kl_target is not None:
                kl = next_kl(
                    kl, found["kl_rollout"], len(scores), target=settings.kl_target, horizon=settings.kl_horizon
                )
            if checkpoints is not None and checkpoints.due(step, steps):
                keep_progress(
                    accelerator,
                    model,
                    folder,
                    checkpoints,
                    step=step,
                    kl=kl,
                    order=order,
                    watch=watch,
                    reward=reward,
                    watcher=watcher,
                )
        weights.check(networks.actor_critic.policy, steps=step)
        if watcher is not None:
            watcher.settle(networks.actor_critic.policy)
        if accelerator.is_main_process:
            save_merged(networks.saved, tokenizer, folder)
    result = rl_result(
        kept,
        failures,
        reward=reward,
        watch=watch,
        steps=step,
        trainable=weights.trainable,
        tokenizer=tokenizer,
    )
    return watched(result, watcher)


def _check(**counts: int) -> None:
    for name, value in counts.items():
        if value < 1:
            raise ConfigError(f"rl: {name} is {value}, expected at least 1")


def _share(prompts_per_step: int, generations: int, settings: PpoSettings, processes: int) -> int:
    """Prompts a step and process.

    Raises:
        ConfigError: they cannot be shared out, or leave a mini-batch without a rollout.
    """
    if prompts_per_step % processes:
        raise ConfigError(f"rl.prompts_per_step: {prompts_per_step} cannot be shared by {processes} processes")
    share = prompts_per_step // processes
    if share * generations < settings.minibatches:
        raise ConfigError(f"ppo.minibatches: {settings.minibatches}, but a step has {share * generations} rollouts")
    return share


def _accelerator() -> Any:
    """A fresh one: a trainer that ran before in this process may have left another number type set."""
    AcceleratorState._reset_state()  # as transformers' own trainer does
    cuda = torch.cuda.is_available()
    made = Accelerator(cpu=not cuda, mixed_precision="bf16" if cuda and fast_dtype() == "bfloat16" else "no")
    if made.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        raise ConfigError(PPO)
    return made


def _optimizer(model: ActorCritic, settings: PpoSettings) -> torch.optim.Optimizer:
    policy = {id(p) for p in model.policy.parameters()}
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if id(p) in policy], "lr": settings.learning_rate},
        {"params": [p for p in trained if id(p) not in policy], "lr": settings.critic_learning_rate},
    ]
    return torch.optim.Adam(groups, eps=1e-5, fused=True)  # one pass over memory


def _of_rewards(rows: Sequence[RewardRow], scores: Sequence[float]) -> dict[str, float]:
    mean = sum(scores) / len(scores)
    spread = (sum((score - mean) ** 2 for score in scores) / len(scores)) ** 0.5
    return {"reward": mean, "reward_std": spread, "unrewarded": float(len(rows) - len(scores)), **figures(rows)}


def _of_lengths(drawn: Any, accelerator: Any) -> dict[str, float]:
    """Mean length in tokens, and the share of rollouts cut at the limit, as TRL names them."""
    sums = torch.tensor([float(sum(map(len, drawn.answers))), float(sum(drawn.ended)), float(len(drawn.answers))])
    length, ended, count = totals(accelerator)(sums.to(accelerator.device)).tolist()
    return {"completions/mean_length": length / count, "completions/clipped_ratio": 1 - ended / count}
