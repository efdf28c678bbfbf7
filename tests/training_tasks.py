"""One small training of every kind, all on the tiny model: what is killed, resumed, and shared out to processes."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rl_tasks import PROMPTS, letters_source, prompt

from constitutional.records import Record, user
from constitutional.settings import PpoSettings
from constitutional.settings.watch import WatchRule, WatchSettings
from constitutional.training.best_of_n import train_best_of_n
from constitutional.training.dpo import train_dpo
from constitutional.training.ppo.stage import train_ppo
from constitutional.training.preference_model import Committee, train_preference_model
from constitutional.training.rl import train_rl
from constitutional.training.rows import PreferenceRow, SftRow
from constitutional.training.sft import train_sft
from constitutional.training.watch.probe import Watch

# twelve rows are three steps an epoch: checkpoints after every second one stand within epochs and between them
BATCH = {"bf16": False, "learning_rate": 3e-3, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
DRAWN: dict[str, Any] = {
    "rewards": [letters_source()],
    "steps": 6,
    "kl": 0.05,
    "generations": 4,
    "prompts_per_step": 2,
    "max_tokens": 6,
    "temperature": 1.0,
    "seed": 0,
}
LORA = {"r": 4, "dropout": 0.1}


def sft_rows(count: int = 12) -> list[SftRow]:
    """Rows of different lengths, which are grouped by them."""
    return [
        SftRow(
            prompt=(user("How do I pick a lock" + " good" * (i % 5) + f" {i}?"),),
            completion="I cannot help with that." + " bad" * (i % 3),
            source_id=f"s{i}",
            principle="p@1.0.0",
            origin="revision",
        )
        for i in range(count)
    ]


def preference_rows(count: int = 12) -> list[PreferenceRow]:
    draw = random.Random(0)
    return [
        PreferenceRow(
            messages=(user(f"How {i}?"),),
            chosen=" ".join(draw.choice(["pin", "lock", "first"]) for _ in range(1 + i % 4)) + " good",
            rejected=" ".join(draw.choice(["pin", "lock", "first"]) for _ in range(1 + i % 3)) + " bad",
            probability=0.9 - 0.03 * i,
            preference_id=f"p{i}",
            comparison_id=f"c{i}",
            source="ai",
            principles=(),
        )
        for i in range(count)
    ]


def _sft(policy: Path, **common: Any) -> Any:
    return train_sft(sft_rows(), model=policy, seed=0, trl={**BATCH, "num_train_epochs": 3}, **common)


def _sft_lora(policy: Path, **common: Any) -> Any:
    return train_sft(sft_rows(), model=policy, seed=0, trl={**BATCH, "num_train_epochs": 3}, lora=LORA, **common)


def _pm(policy: Path, committee: Committee | None = None, **common: Any) -> Any:
    rows = preference_rows()
    trl = {**BATCH, "num_train_epochs": 3}
    return train_preference_model(rows, rows[:2], model=policy, seed=0, trl=trl, committee=committee, **common)


def _ensemble(policy: Path, **common: Any) -> Any:
    return _pm(policy, Committee(members=2), head="probe", **common)


def _dpo(policy: Path, **common: Any) -> Any:
    trl = {**BATCH, "num_train_epochs": 3}
    return train_dpo(preference_rows(), policy=policy, beta=0.5, labels="soft", seed=0, trl=trl, **common)


def _grpo(policy: Path, **common: Any) -> Any:
    trl = {"bf16": False, "learning_rate": 1e-3, "num_iterations": 2}  # a window of two steps
    return train_rl(PROMPTS, policy=policy, algorithm="grpo", trl=trl, **DRAWN, **common)


def watching(hear: Callable[[Sequence[Record]], None] | None = None) -> Watch:
    """Probes at every second step, and keeps the best one's weights for a rule that never comes to it.

    Who hears is told of the answers, and of the event of a rule that does something at the first step.
    """
    rules = [WatchRule(figure="kl", above=1e6, action="rollback")]
    if hear is not None:
        rules.append(WatchRule(figure="completions/mean_length", above=1, action="lower_lr", factor=0.5))
    asked = [prompt(f"What about {i}?") for i in range(4)]
    settings = WatchSettings(every=2, prompts=4, canaries=0, temperature=1.0, rules=tuple(rules))
    on_event = None if hear is None else lambda event: hear([event])
    return Watch(settings, asked, on_answers=hear, on_event=on_event)


def _rloo_watched(policy: Path, hear: Callable[[Sequence[Record]], None] | None = None, **common: Any) -> Any:
    return _rloo(policy, watching=watching(hear), **common)


def _ppo_watched(policy: Path, **common: Any) -> Any:
    return _ppo(policy, watching=watching(), **common)


def _rloo(policy: Path, **common: Any) -> Any:
    trl = {"bf16": False, "learning_rate": 1e-3}
    return train_rl(PROMPTS, policy=policy, algorithm="rloo", trl=trl, **DRAWN, **common)


def _ppo(policy: Path, **common: Any) -> Any:
    settings = PpoSettings(
        critic="policy", learning_rate=1e-3, critic_learning_rate=1e-3, minibatches=2, epochs=2, kl_target=0.1
    )
    return train_ppo(PROMPTS, policy=policy, preference_model=None, settings=settings, **DRAWN, **common)


def _best_of_n(policy: Path, **common: Any) -> Any:
    drawn = {name: DRAWN[name] for name in ("rewards", "generations", "max_tokens", "temperature", "seed")}
    # six best answers are three whole steps
    trl = {**BATCH, "per_device_train_batch_size": 1, "num_train_epochs": 2}
    return train_best_of_n(PROMPTS, policy=policy, trl=trl, lora={"r": 4, "dropout": 0.0}, **drawn, **common)


TASKS: dict[str, Callable[..., Any]] = {
    "sft": _sft,
    "sft_lora": _sft_lora,
    "pm": _pm,
    "ensemble": _ensemble,
    "dpo": _dpo,
    "grpo": _grpo,
    "rloo": _rloo,
    "ppo": _ppo,
    "rloo_watched": _rloo_watched,
    "ppo_watched": _ppo_watched,
    "best_of_n": _best_of_n,
}
REWARDED = ("grpo", "rloo", "ppo", "rloo_watched", "ppo_watched", "best_of_n")
