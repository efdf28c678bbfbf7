"""Which token of a packed prefix tree may attend to which, as torch models take it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch


def tree_mask(parents: Sequence[int]) -> torch.Tensor:
    """A mask of shape (1, 1, nodes, nodes): True where a node may attend, to itself and its ancestors.

    Args:
        parents: the parent of each node, -1 for none; a parent always stands before its children.
    """
    size = len(parents)
    mask = np.zeros((size, size), dtype=np.bool_)
    for node, parent in enumerate(parents):
        if parent >= 0:
            mask[node, :node] = mask[parent, :node]
        mask[node, node] = True
    return torch.from_numpy(mask)[None, None]


def attends_fully(config: Any) -> bool:
    """Whether every layer attends to all earlier tokens: a mask of ours would replace a layer's sliding window.

    Older families name a window but no kinds of layers.
    """
    kinds = getattr(config, "layer_types", None)
    return set(kinds) == {"full_attention"} if kinds else getattr(config, "sliding_window", None) is None
