"""The preference model's loss, written out: soft Bradley-Terry with weights, margin and centring."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import logsigmoid


def preference_loss(
    chosen: Any, rejected: Any, probability: Any, *, weight: Any = None, margin: Any = None, centre: float = 0.0
) -> Any:
    """Mean loss of a batch, in nats per comparison.

    With d = chosen - rejected - margin, one row's loss is
    `weight * (-p*logsigmoid(d) - (1-p)*logsigmoid(-d)) + centre * (chosen + rejected)**2`; the first part is computed
    as `-logsigmoid(d) + (1-p)*d`, which is the same and at p = 1 the hard loss to the last bit. The mean is over rows,
    not over weights: a batch of one source would otherwise undo that source's weight.

    Args:
        chosen: scores of the chosen answers, one a row.
        rejected: scores of the rejected answers.
        probability: of chosen being the better answer, in [0, 1] (Bai et al. 2022, section 4.1).
        weight: of each row; None is 1.
        margin: log-odds that are taken off the difference before it counts (Touvron et al. 2023, section 3.2.2);
            None is 0.
        centre: holds the sum of a row's scores near zero (Eisenstein et al. 2023, section 3.1).
    """
    difference = chosen - rejected if margin is None else chosen - rejected - margin
    hard, soft = -logsigmoid(difference), (1 - probability) * difference
    loss = (hard.mean() + soft.mean()) if weight is None else (weight * (hard + soft)).mean()
    return loss + centre * torch.mean((chosen + rejected) ** 2) if centre else loss
