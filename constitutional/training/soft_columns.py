"""The columns of a preference dataset that TRL's trainers do not know: a soft label and a weight for each row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

COLUMN = "preference"
"""The dataset column that holds the probability of chosen, in [0, 1]."""

WEIGHT = "weight"
"""The dataset column that holds a row's weight in the loss; absent where every weight is 1."""


def with_labels(batch: dict[str, Any], examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A collated batch (all chosen, then all rejected) with the labels and weights of its rows beside."""
    for column in (COLUMN, WEIGHT):
        if column in examples[0]:
            batch[column] = torch.tensor([example[column] for example in examples], dtype=torch.float)
    return batch
