"""Layers that read a packed prefix tree piece by piece: what a layer makes of all its tokens is never held at once.

A parent stands before its children, so the nodes of a piece attend to keys and values of this piece and of those
before: one pass through the pieces gives what one forward of the whole tree gives.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from constitutional.backends.pieces import PIECE
from constitutional.backends.tree_attention import Block

_NEEDED = {"hidden_states", "attention_mask", "position_embeddings", "past_key_values"}


def read_in_pieces(net: Any) -> None:
    """Makes a transformers model's layers compute a mask of `block_mask` in pieces; whatever else they get, as before.

    Args:
        net: a model that `attend_in_blocks` has prepared. Layers of families that take other arguments than Llama's are
            left as they are.
    """
    for layer in getattr(net.base_model, "layers", ()):
        if inspect.signature(layer.forward).parameters.keys() >= _NEEDED:
            layer.forward = partial(_in_pieces, layer.forward)


def _in_pieces(forward: Any, hidden_states: torch.Tensor, **given: Any) -> Any:
    mask, (_, tokens, _) = given.get("attention_mask"), hidden_states.shape
    blocks: list[Block] | None = getattr(mask, "blocks", None)
    if mask is None or blocks is None or tokens <= PIECE:
        return forward(hidden_states, **given)
    cos, sin = given.pop("position_embeddings")
    positions = given.pop("position_ids", None)
    earlier = _Earlier(tokens)
    for piece in _pieces(blocks):
        start, end = piece[0].start, piece[-1].end
        part = mask[:, :, start:end, :end]
        part.blocks = [replace(block, start=block.start - start, end=block.end - start) for block in piece]
        given |= {"attention_mask": part, "past_key_values": earlier}
        # in its own place: no later piece, and no later layer, reads what the layer was given
        hidden_states[:, start:end] = forward(
            hidden_states[:, start:end],
            position_embeddings=(cos[:, start:end], sin[:, start:end]),
            position_ids=None if positions is None else positions[:, start:end],
            **given,
        )
    return hidden_states


def _pieces(blocks: Sequence[Block]) -> Iterator[list[Block]]:
    """Blocks that stand together, of at most `PIECE` nodes unless one alone has more."""
    piece: list[Block] = []
    for block in blocks:
        if piece and block.end - piece[0].start > PIECE:
            yield piece
            piece = []
        piece.append(block)
    yield piece


class _Earlier:
    """What attention takes for a cache: one layer's keys and values, tokens first, as `tree_attention` gathers them."""

    def __init__(self, tokens: int) -> None:
        self._tokens, self._stored, self._until = tokens, list[torch.Tensor](), 0

    def update(self, keys: torch.Tensor, values: torch.Tensor, *_: object) -> tuple[torch.Tensor, torch.Tensor]:
        """Adds a piece's keys and values (1 x heads x tokens x width); returns those of all pieces so far."""
        new = [one[0].transpose(0, 1) for one in (keys, values)]
        if not self._stored:
            self._stored = [one.new_empty((self._tokens, *one.shape[1:])) for one in new]
        start, self._until = self._until, self._until + len(new[0])
        for stored, one in zip(self._stored, new, strict=True):
            stored[start : self._until] = one
        found = [stored[: self._until].transpose(0, 1)[None] for stored in self._stored]
        return found[0], found[1]
