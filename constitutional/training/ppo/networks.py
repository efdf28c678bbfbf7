"""The networks of PPO: the policy and its critic, trained together, and the reference the policy is held near."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

from constitutional.errors import ConfigError
from constitutional.settings import CriticKind
from constitutional.training.lora import lora_config
from constitutional.training.pm_folder import member_folders
from constitutional.training.trl_settings import Settings


@dataclass(frozen=True)
class Layout:
    """Prompts padded on the left, drawn tokens on the right: each row's first drawn token stands in the same column.

    `tokens` and `attention` are rollouts x (prompt + drawn) long; `mask` is rollouts x drawn, 1.0 where one was drawn.
    """

    tokens: Tensor
    attention: Tensor
    mask: Tensor

    @property
    def positions(self) -> Tensor:
        """Each token's place in its own sequence, filling not counted."""
        return (self.attention.cumsum(1) - 1).clamp(min=0)

    def rows(self, chosen: Tensor) -> Layout:
        """Some of the rows."""
        return Layout(self.tokens[chosen], self.attention[chosen], self.mask[chosen])


class ActorCritic(nn.Module):
    """Policy and critic in one module, so that one wrapper (DDP, FSDP) and one optimiser hold both.

    Dropout stays off for good: the ratio of a fresh rollout must be 1, and its KL to the reference 0.
    """

    def __init__(self, policy: Any, critic: Any | None, temperature: float) -> None:
        """`critic` None puts a value head on the policy's own last hidden state."""
        super().__init__()
        self.policy, self.critic, self._temperature = policy, critic, temperature
        self.head = None
        if critic is None:
            weight = policy.get_output_embeddings().weight
            self.head = nn.Linear(weight.shape[1], 1, bias=False, device=weight.device)
            nn.init.zeros_(self.head.weight)
        self.eval()

    def forward(self, tokens: Tensor, attention: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probability and entropy of each drawn token, and the value of the state it was drawn in."""
        layout = Layout(tokens, attention, mask)
        output = _read(self.policy, layout, hidden=self.head is not None)
        logprobs, entropy = _drawn(output.logits, layout, self._temperature)
        if self.head is not None:
            values = self.head(_before_drawn(output.hidden_states[-1], layout).to(self.head.weight.dtype))
        else:
            assert self.critic is not None
            states = self.critic.base_model(
                input_ids=tokens, attention_mask=attention, position_ids=layout.positions, use_cache=False
            ).last_hidden_state
            values = self.critic.score(_before_drawn(states, layout))
        return logprobs, entropy, values[..., 0].float()


def drawn_logprobs(net: Any, layout: Layout, temperature: float) -> Tensor:
    """Log-probabilities of the drawn tokens under another network: exactly those of `ActorCritic` for equal weights."""
    return _drawn(_read(net, layout, hidden=False).logits, layout, temperature)[0]


def _read(net: Any, layout: Layout, *, hidden: bool) -> Any:
    return net(
        input_ids=layout.tokens,
        attention_mask=layout.attention,
        position_ids=layout.positions,
        use_cache=False,
        output_hidden_states=hidden,
        logits_to_keep=layout.mask.shape[1] + 1,  # the last prompt token predicts the first drawn one
    )


def _before_drawn(states: Tensor, layout: Layout) -> Tensor:
    """States of the tokens that stand before each drawn one."""
    return states[:, -layout.mask.shape[1] - 1 : -1]


def _drawn(logits: Tensor, layout: Layout, temperature: float) -> tuple[Tensor, Tensor]:
    distribution = (_before_drawn(logits, layout).float() / temperature).log_softmax(-1)
    drawn = layout.tokens[:, -layout.mask.shape[1] :]
    logprobs = distribution.gather(-1, drawn[..., None])[..., 0]
    with torch.no_grad():
        entropy = -(distribution.exp() * distribution).sum(-1)
    return logprobs, entropy


@dataclass(frozen=True)
class Reference:
    """The starting policy: a frozen copy, or under LoRA the policy itself with its adapters off."""

    net: Any
    adapters: Any | None

    @contextmanager
    def active(self) -> Iterator[Any]:
        """The network, as the starting policy while the block lasts."""
        if self.adapters is None:
            yield self.net
        else:
            with self.adapters.disable_adapter():
                yield self.net


@dataclass(frozen=True)
class Networks:
    """What a PPO run holds. `saved` is the policy as `save_merged` wants it: under LoRA PEFT's wrapper around it."""

    actor_critic: ActorCritic
    reference: Reference | None
    saved: Any

    @property
    def readers(self) -> list[Any]:
        """Every network that reads rollouts: policy, a critic of its own, a reference of its own."""
        found = [self.actor_critic.policy, self.actor_critic.critic, self.reference.net if self.reference else None]
        return [net for net in found if net is not None]


def open_networks(
    policy: str | Path,
    preference_model: str | Path | None,
    *,
    critic: CriticKind,
    lora: Settings | None,
    temperature: float,
    device: torch.device,
    referred: bool = True,
) -> Networks:
    """Opens the networks, in float32.

    Args:
        policy: folder of the starting policy.
        preference_model: folder the critic starts from, where `critic` says so; of an ensemble, its first member.
        critic: "preference_model", "policy" (a copy of the policy with a head of zeros) or "head" (a value head of
            zeros on the policy itself).
        lora: adapters for the policy, and for a critic of its own; all weights are trained when None.
        temperature: rollouts are drawn at; the policy that is trained is the one at this temperature.
        device: where to put them.
        referred: whether a reference is needed; a full fine-tune pays for it with a copy of the policy.

    Raises:
        ConfigError: no preference model to start a critic from, or one that reads other tokens than the policy.
    """
    net = AutoModelForCausalLM.from_pretrained(str(policy), dtype=torch.float32).to(device)
    wrapped = _adapted(net, lora, "CAUSAL_LM")
    reference = None
    if referred and wrapped is net:
        copy = AutoModelForCausalLM.from_pretrained(str(policy), dtype=torch.float32).to(device)
        reference = Reference(copy.eval().requires_grad_(False), None)
    elif referred:
        reference = Reference(net, wrapped)
    own = None
    if critic != "head":
        own = _critic(policy, preference_model if critic == "preference_model" else policy, critic).to(device)
        _adapted(own, lora, "SEQ_CLS")
    return Networks(ActorCritic(net, own, temperature), reference, wrapped)


def _critic(policy: str | Path, start: str | Path | None, kind: CriticKind) -> Any:
    if start is None:
        raise ConfigError("ppo.critic: there is no preference model to start the critic from: set it to policy or head")
    if kind == "preference_model":
        start = member_folders(start)[0]
        ours, theirs = (AutoTokenizer.from_pretrained(str(folder)).get_vocab() for folder in (policy, start))
        if ours != theirs:
            raise ConfigError(
                "ppo.critic: the preference model reads other tokens than the policy: set it to policy or head"
            )
    level = logging.get_verbosity()
    logging.set_verbosity_error()  # of a policy it would report at length that there is no head
    try:
        net = AutoModelForSequenceClassification.from_pretrained(str(start), num_labels=1, dtype=torch.float32)
    finally:
        logging.set_verbosity(level)
    if kind == "policy":
        nn.init.zeros_(net.score.weight)  # a random head would be sure of values that mean nothing
    return net


def _adapted(net: Any, lora: Settings | None, task: Any) -> Any:
    """PEFT's wrapper around a network that it changes in place; the network itself where there are no adapters."""
    config = lora_config(lora, task)
    if config is None:
        return net
    from peft import get_peft_model

    return get_peft_model(net, config)
