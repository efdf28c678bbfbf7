"""What every RL stage begins and ends with: the prompts that leave room for an answer, and the figures of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from constitutional.errors import TrainingError
from constitutional.records import Failure, Prompt
from constitutional.training.guards import StepWatch
from constitutional.training.rewards import Rewards
from constitutional.training.rows import RlResult
from constitutional.training.tokens import ControlTokens, dialogue_ids


def fitting_prompts(prompts: Sequence[Prompt], tokenizer: Any, room: int) -> tuple[dict[str, Prompt], list[Failure]]:
    """The prompts of at most `room` tokens by id, each once, and a Failure for every other."""
    kept = {}
    failures = []
    for prompt in {prompt.id: prompt for prompt in prompts}.values():
        length = len(dialogue_ids(tokenizer, prompt.messages, generation_prompt=True))
        if length <= room:
            kept[prompt.id] = prompt
        else:
            message = f"prompt of {length} tokens, room for {room}"
            failures.append(Failure(item_id=prompt.id, stage="rl", kind="too_long", message=message))
    return kept, failures


def require_prompts(kept: int, needed: int, too_long: int) -> None:
    """Refuses fewer prompts than one step draws: TRL would drop the incomplete batch and finish with zero steps.

    Raises:
        TrainingError: how many there are and how many are needed.
    """
    if kept < needed:
        also = f" ({too_long} more are too long for the context)" if too_long else ""
        raise TrainingError(f"{kept} different prompts{also}, but a step needs {needed} (prompts_per_step)")


def context_length(folder: str | Path) -> int:
    """Tokens the model in a folder can attend to."""
    return int(AutoConfig.from_pretrained(str(folder)).max_position_embeddings)


def rl_result(
    prompts: Mapping[str, Prompt],
    failures: Sequence[Failure],
    *,
    reward: Rewards,
    watch: StepWatch,
    steps: int,
    trainable: int,
    tokenizer: Any,
) -> RlResult:
    """The figures of a finished run."""
    means, kls = watch.values("reward"), watch.values("kl")
    return RlResult(
        prompts=len(prompts),
        failures=tuple(failures),
        control_tokens=ControlTokens(tokenizer).count(m.content for p in prompts.values() for m in p.messages),
        steps=steps,
        trainable_parameters=trainable,
        completions=reward.completions,
        empty_completions=reward.empty,
        unrewarded=reward.unrewarded,
        groups=reward.groups,
        zero_spread_groups=reward.zero_spread_groups,
        first_reward=means[0] if means else None,
        last_reward=means[-1] if means else None,
        last_kl=kls[-1] if kls else None,
        preference_model=reward.model,
    )
