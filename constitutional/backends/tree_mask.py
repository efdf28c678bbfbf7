"""Which token of a packed prefix tree may attend to which, as torch models take it."""

from __future__ import annotations

import inspect
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


def attends_fully(net: Any) -> bool:
    """Whether a network makes of a packed tree what it makes of each sequence alone.

    Not where layers have windows, which a mask of ours would replace (older families name a window but no kinds of
    layers); not where tokens hear of one another by other ways than attention (recurrent layers); not where a token's
    place is its place in the row, whatever `position_ids` say; and not where the longest row turns all of them.
    """
    config = net.config.get_text_config(decoder=True)  # of a model that sees pictures, too, the part that reads
    kinds = getattr(config, "layer_types", None)
    full = set(kinds) == {"full_attention"} if kinds else getattr(config, "sliding_window", None) is None
    placed = "position_ids" in inspect.signature(type(net.base_model).forward).parameters
    rope = getattr(config, "rope_parameters", None) or {}
    turns = {part.get("rope_type") for part in (rope, *rope.values()) if isinstance(part, dict)}
    still = not turns & {"dynamic", "longrope"}
    return full and placed and still and not getattr(config, "alibi", False) and not net._is_stateful
