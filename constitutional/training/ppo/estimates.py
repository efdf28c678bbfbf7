"""What rollouts were worth: rewards per token, advantages, returns, KL. Functions of (rollouts x tokens) tensors.

A mask is 1.0 at every token that was drawn, the end of the turn included, and 0.0 after it, or in all of a rollout
that is left out. Drawn tokens stand together at the start of a row. What stands where the mask is 0 never reaches a
result.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Total = Callable[[Tensor], Tensor]
"""Adds a tensor up over all processes; with one process it is the tensor itself."""


def alone(value: Tensor) -> Tensor:
    """The `Total` of a single process."""
    return value


def masked_mean(values: Tensor, mask: Tensor, total: Total = alone) -> Tensor:
    """Mean over the tokens of the mask, over all processes; 0 where there is none."""
    sums = total(torch.stack([(values * mask).double().sum(), mask.double().sum()]))
    return (sums[0] / sums[1].clamp(min=1)).to(values.dtype)


def whiten(values: Tensor, mask: Tensor, *, centre: bool = True, total: Total = alone) -> Tensor:
    """Values over their standard deviation, 0 outside the mask.

    Args:
        values: what to whiten.
        mask: which tokens count.
        centre: shift the mean to 0, too. Without it signs and the mean stay, only the scale changes.
        total: adds up over processes.
    """
    mean = masked_mean(values, mask, total)
    variance = masked_mean((values - mean) ** 2, mask, total)
    whitened = (values - mean) * torch.rsqrt(variance + 1e-8)
    return (whitened if centre else whitened + mean) * mask


def log_ratio(logprobs: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
    """`log p - log p_reference` of each drawn token: an unbiased estimate of the KL (k1 of Schulman 2020), any sign."""
    return (logprobs - reference) * mask


def positive_kl(logprobs: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
    """`r - 1 - log r` with `r = p_reference / p`: unbiased too, never negative, less noisy (k3 of Schulman 2020)."""
    ratio = (reference - logprobs) * mask
    return (ratio.exp() - 1 - ratio) * mask


def token_rewards(scores: Tensor, log_ratios: Tensor, mask: Tensor, kl: float) -> Tensor:
    """Rewards of each token: the KL penalty, and at the last token drawn the rollout's score (Ziegler et al. 2019).

    Args:
        scores: one a rollout; what stands for a rollout that is left out is not looked at.
        log_ratios: of `log_ratio`.
        mask: drawn tokens.
        kl: coefficient of the penalty.
    """
    last = mask.cumsum(1).eq(mask.sum(1, keepdim=True)) & mask.bool()
    return torch.where(last, scores[:, None], 0.0) - kl * log_ratios * mask


def gae(rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimates and the returns the critic learns (Schulman et al. 2016, equation 16).

    Nothing is expected after the last token, whether the turn ended there or the room did.

    Args:
        rewards: of `token_rewards`.
        values: the critic's, of the state in which each token was drawn.
        mask: drawn tokens.
        gamma: discount per token; 1 in the papers.
        lam: 1 is return minus value, 0 is the one-step error.

    Returns:
        Advantages, and advantages plus values; both 0 outside the mask.
    """
    values = torch.where(mask.bool(), values, 0.0)
    advantages = torch.zeros_like(rewards)
    later, next_value = torch.zeros_like(rewards[:, 0]), torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        drawn = mask[:, t]
        error = rewards[:, t] + gamma * next_value - values[:, t]
        later = (error + gamma * lam * later) * drawn
        next_value = values[:, t]
        advantages[:, t] = later
    return advantages, (advantages + values) * mask
