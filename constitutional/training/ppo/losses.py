"""The clipped losses of PPO (Schulman et al. 2017, equation 7; values clipped as in OpenAI's own code).

Each function gives losses per token, 0 outside the mask; the caller divides their sum by the tokens of the whole
mini-batch, so that cutting it into micro-batches or over processes changes nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor


def policy_losses(new: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, clip: float | None) -> Tensor:
    """Per token `-min(ratio * A, clipped ratio * A)`.

    Args:
        new: log-probabilities of the drawn tokens under the policy that is trained.
        old: the same under the policy that drew them.
        advantages: of `gae`; constants.
        mask: drawn tokens.
        clip: how far the ratio may go from 1; None leaves it free.
    """
    ratio = ((new - old) * mask).exp()
    gain = ratio * advantages
    if clip is not None:
        gain = torch.minimum(gain, ratio.clamp(1 - clip, 1 + clip) * advantages)
    return -gain * mask


def value_losses(new: Tensor, old: Tensor, returns: Tensor, mask: Tensor, clip: float | None) -> Tensor:
    """Per token half the squared error, of the worse of the value and the value kept near the old one.

    Args:
        new: the critic's values.
        old: its values when the rollouts were drawn.
        returns: of `gae`; constants.
        mask: drawn tokens.
        clip: how far a value may go from the old one; None leaves it free.
    """
    errors = (new - returns) ** 2
    if clip is not None:
        near = old + (new - old).clamp(-clip, clip)
        errors = torch.maximum(errors, (near - returns) ** 2)
    return 0.5 * torch.where(mask.bool(), errors, 0.0)


def clipped_share(new: Tensor, old: Tensor, mask: Tensor, clip: float | None) -> Tensor:
    """1.0 at the tokens whose ratio lies outside the clip."""
    if clip is None:
        return torch.zeros_like(mask)
    return ((((new - old) * mask).exp() - 1).abs() > clip).to(mask.dtype) * mask


def next_kl(kl: float, measured: float, rollouts: int, *, target: float, horizon: int) -> float:
    """The adaptive KL coefficient (Ziegler et al. 2019, section 2.2): up where the policy went too far, else down.

    Args:
        kl: the coefficient of the last step.
        measured: mean KL of that step in nats a rollout.
        rollouts: how many there were.
        target: the KL aimed at, nats a rollout.
        horizon: rollouts over which the coefficient may change by 20 %, about.
    """
    error = min(max(measured / target - 1, -0.2), 0.2)
    return kl * (1 + error * rollouts / horizon)
