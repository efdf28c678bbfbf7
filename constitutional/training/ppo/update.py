"""One batch of rollouts: what they were worth, then clipped epochs of policy and critic over them."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from constitutional.settings import PpoSettings
from constitutional.training.ppo.estimates import (
    Total,
    gae,
    log_ratio,
    masked_mean,
    positive_kl,
    token_rewards,
    whiten,
)
from constitutional.training.ppo.losses import clipped_share, policy_losses, value_losses
from constitutional.training.ppo.networks import Layout, Reference, drawn_logprobs


@dataclass(frozen=True)
class Batch:
    """Rollouts with everything the update compares with, fixed before the first epoch (rollouts x drawn tokens)."""

    layout: Layout
    logprobs: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor

    def rows(self, chosen: Tensor) -> Batch:
        """Some of the rollouts."""
        parts = (self.logprobs, self.values, self.advantages, self.returns)
        return Batch(self.layout.rows(chosen), *(part[chosen] for part in parts))


@torch.no_grad()
def appraise(
    model: Any,
    reference: Reference | None,
    layout: Layout,
    scores: Tensor,
    *,
    kl: float,
    temperature: float,
    settings: PpoSettings,
    accelerator: Any,
) -> tuple[Batch, dict[str, float]]:
    """What a batch of rollouts was worth.

    Args:
        model: policy and critic, as they drew the rollouts.
        reference: None where `kl` is 0.
        layout: the rollouts of this process.
        scores: one a rollout.
        kl: coefficient of the KL penalty in this step.
        temperature: of the draw.
        settings: discount, lambda, whitening, and how many rollouts go through a network at a time.
        accelerator: adds figures up over processes.

    Returns:
        The batch, and its figures over all processes: `kl` in nats a token, `kl_rollout` in nats a rollout, `entropy`
        in nats a token, `value`, and how much of the returns' variance the critic explains.
    """
    total = totals(accelerator)
    mask = layout.mask
    found = [model(part.tokens, part.attention, part.mask) for part in _parts(layout, settings.micro_batch)]
    logprobs, entropy, values = (torch.cat(parts) for parts in zip(*found, strict=True))
    before = logprobs
    if reference is not None:
        with reference.active() as net, accelerator.autocast():
            parts = [drawn_logprobs(net, part, temperature) for part in _parts(layout, settings.micro_batch)]
        before = torch.cat(parts)
    ratios = log_ratio(logprobs, before, mask)
    rewards = token_rewards(scores, ratios, mask, kl)
    if settings.whiten_rewards:
        rewards = whiten(rewards, mask, centre=False, total=total)
    advantages, returns = gae(rewards, values, mask, gamma=settings.gamma, lam=settings.lam)
    error = masked_mean((returns - values) ** 2, mask, total)
    spread = masked_mean((returns - masked_mean(returns, mask, total)) ** 2, mask, total)
    if settings.whiten_advantages:
        advantages = whiten(advantages, mask, total=total)
    rewarded = total(mask.any(1).double().sum()).clamp(min=1)
    figures = {
        "entropy": float(masked_mean(entropy, mask, total)),
        "value": float(masked_mean(values, mask, total)),
        "explained_variance": float(1 - error / spread) if spread > 0 else 0.0,
    }
    if reference is not None:
        figures["kl"] = float(masked_mean(positive_kl(logprobs, before, mask), mask, total))
        figures["kl_rollout"] = float(total(ratios.double().sum()) / rewarded)
    return Batch(layout, logprobs, values, advantages, returns), figures


def improve(
    model: Any, optimizer: Any, batch: Batch, *, settings: PpoSettings, accelerator: Any, generator: torch.Generator
) -> dict[str, float]:
    """Epochs of clipped updates over a batch.

    A loss is the sum over the tokens of a mini-batch divided by their number on all processes, so neither
    micro-batches nor processes change the gradient.

    Args:
        model: policy and critic, wrapped by `accelerator`.
        optimizer: over their trainable weights.
        batch: of `appraise`.
        settings: epochs, mini-batches, clips, weights.
        accelerator: one process or many.
        generator: the order of rollouts; the same on every process.

    Returns:
        Means over the updates, and over all processes: `loss`, `loss/policy`, `loss/value`, `clip_ratio`, `grad_norm`.
    """
    total = totals(accelerator)
    trained = [p for p in model.parameters() if p.requires_grad]
    sums: dict[str, float] = {"loss/policy": 0.0, "loss/value": 0.0, "clip_ratio": 0.0, "grad_norm": 0.0}
    updates = 0
    for _ in range(settings.epochs):
        order = torch.randperm(len(batch.logprobs), generator=generator)
        for chosen in order.tensor_split(settings.minibatches):
            part = batch.rows(chosen.to(batch.logprobs.device))
            tokens = total(part.layout.mask.double().sum())
            if tokens == 0:  # none of these has a reward, on any process
                continue
            figures = torch.zeros(3, dtype=torch.float64, device=part.logprobs.device)
            pieces = _pieces(len(chosen), settings.micro_batch, part.logprobs.device)
            for number, rows in enumerate(pieces, start=1):
                with nullcontext() if number == len(pieces) else accelerator.no_sync(model):
                    losses = _losses(model, part.rows(rows), settings)
                    loss = losses[0] + settings.value_weight * losses[1]
                    # many processes average their gradients, and this is to be a sum
                    accelerator.backward((loss / tokens * accelerator.num_processes).float())
                figures += losses.detach().double()
            norm = accelerator.clip_grad_norm_(trained, settings.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            policy, value, clipped = (total(figures) / tokens).tolist()
            for name, figure in zip(sums, (policy, value, clipped, float(norm)), strict=True):
                sums[name] += figure
            updates += 1
    means = {name: figure / max(1, updates) for name, figure in sums.items()}
    return {"loss": means["loss/policy"] + settings.value_weight * means["loss/value"], **means}


def _losses(model: Any, part: Batch, settings: PpoSettings) -> Tensor:
    """Sums over tokens: policy loss, value loss, tokens whose ratio is clipped."""
    mask = part.layout.mask
    logprobs, _, values = model(part.layout.tokens, part.layout.attention, mask)
    policy = policy_losses(logprobs, part.logprobs, part.advantages, mask, settings.clip).sum()
    value = value_losses(values, part.values, part.returns, mask, settings.value_clip).sum()
    return torch.stack([policy, value, clipped_share(logprobs, part.logprobs, mask, settings.clip).sum()])


def _parts(layout: Layout, rows: int) -> list[Layout]:
    return [layout.rows(chosen) for chosen in _pieces(len(layout.mask), rows, layout.mask.device)]


def _pieces(count: int, size: int, device: torch.device) -> list[Tensor]:
    """The numbers from 0 to `count`, `size` at a time."""
    return [torch.arange(start, min(start + size, count), device=device) for start in range(0, count, size)]


def totals(accelerator: Any) -> Total:
    """Adds up over the processes of an accelerator."""

    def total(value: Tensor) -> Tensor:
        summed: Tensor = accelerator.reduce(value, reduction="sum")
        return summed

    return total
