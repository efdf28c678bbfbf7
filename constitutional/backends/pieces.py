"""Feed-forward layers that take many tokens piece by piece: their width is where a forward's memory goes."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

PIECE = 1_024
"""Tokens at a time. Products are as fast as in one go; much smaller ones widen 16-bit weights (`upcast`) too often."""


def feed_in_pieces(net: Any) -> None:
    """Makes a transformers model's plain feed-forward layers (`mlp`) compute `PIECE` tokens at a time.

    Every token is computed by itself, so results are the same; the wide tensors in between are never held for the
    whole batch. Only layers made of linear ones are changed: a mixture of experts looks at all its tokens.
    """
    for name, module in net.named_modules():
        kinds = {type(child) for child in module.children() if next(child.parameters(), None) is not None}
        if name.rpartition(".")[2] == "mlp" and kinds == {nn.Linear}:
            module.forward = partial(_in_pieces, module.forward)


def _in_pieces(forward: Any, values: torch.Tensor) -> torch.Tensor:
    flat = values.flatten(0, -2)
    if len(flat) <= PIECE:
        return forward(values)  # type: ignore[no-any-return]
    output = torch.empty_like(flat)  # before the pieces: made after them it would not fit the holes that they leave
    for start in range(0, len(flat), PIECE):
        output[start : start + PIECE] = forward(flat[start : start + PIECE])
    return output.view(values.shape)
