"""What a recipe may say of policy optimisation and its rewards."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from constitutional.records import Record
from constitutional.settings.training import LoraSettings
from constitutional.settings.values import Count, Rate, Scalar, Share
from constitutional.settings.watch import WatchSettings

Algorithm = Literal["ppo", "grpo", "rloo", "dpo", "best_of_n"]
CriticKind = Literal["preference_model", "policy", "head"]
RewardKind = Literal["preference_model", "judge", "check"]
Tracker = Literal["tensorboard", "wandb", "trackio"]


class RewardSettings(Record):
    """One part of the reward; the reward of a rollout is the weighted sum of the parts.

    `judge`: the judge grades each rollout alone (direct RLAIF, Lee et al. 2023), on a scale from -1 to 1, under the
    `score_request` of its principles. `check`: principles that are code, from 0 to 1. `principles` names them; None is
    all that have what is asked. `draw: one` asks of each prompt's rollouts one principle, drawn by the prompt, where
    `all` asks every one and adds up; `weight` is of each.
    """

    kind: RewardKind
    weight: Annotated[float, Field(allow_inf_nan=False)] = 1.0
    principles: tuple[str, ...] | None = None
    draw: Literal["all", "one"] = "all"

    @model_validator(mode="after")
    def _principles_are_asked(self) -> Self:
        if self.kind == "preference_model" and (self.principles is not None or self.draw != "all"):
            raise ValueError("a preference model asks no principles: leave `principles` and `draw` out")
        return self


class PpoSettings(Record):
    """PPO. Rates are of Adam, constant; `clip` and `value_clip` None leave ratios and values free.

    The critic starts from the preference model, as a copy of the policy with a head of zeros, or is a value `head` on
    the policy itself. With `kl_target` (nats a rollout) the coefficient `rl.kl` is where the adaptive one starts.
    `micro_batch` is how many rollouts go through a network at a time, and changes nothing but memory.
    """

    critic: CriticKind = "preference_model"
    learning_rate: Rate = 5e-6
    critic_learning_rate: Rate = 1e-5
    epochs: Count = 4
    minibatches: Count = 1
    micro_batch: Count = 8
    gamma: Share = 1.0
    lam: Share = 0.95
    clip: Rate | None = 0.2
    value_clip: Rate | None = 0.2
    value_weight: Annotated[float, Field(ge=0)] = 0.5
    whiten_rewards: bool = False
    whiten_advantages: bool = True
    max_grad_norm: Rate = 1.0
    kl_target: Rate | None = None
    kl_horizon: Count = 10_000


class DpoSettings(Record):
    """DPO on preferences: `beta` weighs the divergence from SL-CAI, `labels` are kept soft or rounded.

    They are the run's own labels, and with `pm.human` people's preferences too: the same rows, of the same weights
    (`pm.ai_weight`, `pm.rows`), as the preference model's. Each principle's opinion is the preference model's alone.
    """

    beta: Rate = 0.1
    labels: Literal["soft", "hard"] = "soft"


_DRAWS = ("steps", "kl", "generations", "prompts_per_step", "max_tokens", "rewards", "watch")
USED_BY: dict[str, tuple[str, ...]] = {
    "grpo": (*_DRAWS, "lora", "trl", "report_to"),
    "rloo": (*_DRAWS, "lora", "trl", "report_to"),
    "ppo": (*_DRAWS, "lora", "ppo", "report_to"),
    "dpo": ("lora", "trl", "dpo", "report_to"),
    "best_of_n": ("generations", "max_tokens", "rewards", "lora", "trl", "report_to"),
}
"""What each algorithm of `rl` looks at; naming anything else beside it is refused."""


class RlSettings(Record):
    """The policy against its reward; `kl` weighs the divergence from SL-CAI.

    Without `rewards` the preference model alone rewards. `trl` holds fields of the algorithm's TRL config (of
    `SFTConfig` for `best_of_n`, which fine-tunes on the best of `generations` answers to each prompt). `report_to`
    sends every logged figure to trackers, too, and is no part of what the stage is known by.
    """

    algorithm: Algorithm = "rloo"
    steps: Count = 10
    kl: Annotated[float, Field(ge=0)] = 0.05
    generations: Count = 4
    prompts_per_step: Count = 4
    max_tokens: Count = 64
    rewards: tuple[RewardSettings, ...] = ()
    watch: WatchSettings | None = None
    report_to: tuple[Tracker, ...] = ()
    lora: LoraSettings | None = None
    trl: dict[str, Scalar] = Field(default_factory=dict)
    ppo: PpoSettings | None = None
    dpo: DpoSettings | None = None

    @property
    def parts(self) -> tuple[RewardSettings, ...]:
        """The parts of the reward."""
        return self.rewards or (RewardSettings(kind="preference_model"),)

    @property
    def needs_preference_model(self) -> bool:
        """Whether the preference model rewards, or a critic starts from it."""
        if self.algorithm == "dpo":
            return False
        critic = self.algorithm == "ppo" and (self.ppo or PpoSettings()).critic == "preference_model"
        return critic or any(part.kind == "preference_model" for part in self.parts)

    @model_validator(mode="after")
    def _what_is_ignored_is_refused(self) -> Self:
        used = USED_BY[self.algorithm]
        for name in sorted(self.model_fields_set - {"algorithm"}):
            if name not in used and getattr(self, name) is not None:
                raise ValueError(f"{name} is not used by algorithm {self.algorithm} (it uses {', '.join(used)})")
        if self.algorithm in ("grpo", "rloo", "best_of_n") and self.generations < 2:
            raise ValueError(f"generations: {self.algorithm} compares answers to one prompt and needs at least 2")
        if self.ppo is not None and self.ppo.kl_target is not None and self.kl == 0:
            raise ValueError("ppo.kl_target: the adaptive coefficient starts from kl, which is 0")
        if self.lora is not None and self.lora.dropout and self.algorithm == "ppo":
            raise ValueError(
                "lora.dropout is not used by algorithm ppo: it would part the policy from its own rollouts"
            )
        if sum(part.kind == "preference_model" for part in self.rewards) > 1:
            raise ValueError("rewards: the preference model is named twice")
        if self.watch is not None and self.kl == 0 and any(rule.figure == "kl" for rule in self.watch.rules):
            raise ValueError("watch.rules: with kl 0 there is no reference to measure kl against")
        return self

    @model_serializer(mode="wrap")
    def _only_what_is_used(self, handler: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Settings of other algorithms are left out; of a recipe that names no new ones nothing changes."""
        fields: dict[str, object] = handler(self)
        if self.algorithm == "ppo" and self.ppo is None:
            fields["ppo"] = PpoSettings().model_dump()
        if self.algorithm == "dpo" and self.dpo is None:
            fields["dpo"] = DpoSettings().model_dump()
        absent = {
            "rewards": not self.rewards,
            "lora": self.lora is None,
            "watch": self.watch is None,
            "report_to": not self.report_to,
        }
        used = ("algorithm", *USED_BY[self.algorithm])
        return {name: value for name, value in fields.items() if name in used and not absent.get(name)}
