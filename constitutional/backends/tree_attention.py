"""Attention over a packed prefix tree in blocks of nodes, each against its own ancestors only.

A dense mask lets every node be multiplied with every other: quadratic, though a node of one branch never looks at
another branch. Here a block of nodes that stand together meets the union of its nodes' ancestors, so that cost grows
with the length of the branches, not with their number.

The blocks ride on the mask tensor itself. A model that hands the mask to its attention as it got it computes in
blocks; one that makes a new mask of it loses them and computes densely, which is slower and as right.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from constitutional.backends.tree_mask import tree_mask

NAME = "constitutional_tree"
"""What transformers knows this attention by."""

BLOCK = 128
"""Nodes in one block: more make a wider union of ancestors, fewer make more and smaller products (docs/LOG.md)."""


@dataclass(frozen=True)
class Block:
    """Nodes `start` to `end` and the nodes that any of them attends to, in rising order."""

    start: int
    end: int
    seen: torch.Tensor
    mask: torch.Tensor
    """(end - start) x seen, True where a node attends."""


def block_mask(parents: Sequence[int], block: int | None = None) -> torch.Tensor:
    """The mask of `tree_mask`, with its blocks on it for networks that `attend_in_blocks` has prepared.

    Args:
        parents: the parent of each node, -1 for none; a parent always stands before its children.
        block: nodes in a block; `BLOCK` when None.
    """
    mask = tree_mask(parents)
    size, dense = block or BLOCK, mask[0, 0]
    blocks = []
    for start in range(0, len(parents), size):
        rows = dense[start : start + size]
        seen = rows.any(0).nonzero()[:, 0]
        blocks.append(Block(start, start + len(rows), seen, rows.index_select(1, seen)))
    mask.blocks = blocks  # type: ignore[attr-defined]
    return mask


def attend_in_blocks(net: Any) -> None:
    """Makes a network compute a mask of `block_mask` in blocks; all other masks go where they went before.

    Args:
        net: a transformers model whose attention is `sdpa`; any other is left as it is.
    """
    if getattr(net.config, "_attn_implementation", None) == "sdpa":
        net.set_attn_implementation(NAME)


def tree_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers calls: sequences x heads x tokens x width in, sequences x tokens x heads x width out."""
    blocks: list[Block] | None = getattr(attention_mask, "blocks", None)
    if blocks is None:
        found = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)
        return cast("tuple[torch.Tensor, None]", found)
    heads, tokens, shared = query.shape[1], query.shape[2], key.shape[1]
    # query heads that share keys and values stand as one more dimension: nothing is repeated in memory
    queries = query[0].view(shared, heads // shared, tokens, query.shape[3])
    found = _attended(blocks, queries, key[0], value[0], scaling)
    if torch.is_grad_enabled():  # each write into one output would make autograd copy that output on the way back
        return torch.cat(list(found), 2).flatten(0, 1).transpose(0, 1)[None].contiguous(), None
    output = value.new_empty(1, tokens, heads, value.shape[3])
    places = output[0].view(tokens, shared, heads // shared, value.shape[3]).permute(1, 2, 0, 3)
    for block, part in zip(blocks, found, strict=True):
        places[:, :, block.start : block.end] = part
    return output, None


def _attended(
    blocks: Sequence[Block], queries: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None
) -> Iterator[torch.Tensor]:
    """What the nodes of each block read: key heads x query heads of one key x nodes x width."""
    # tokens first, as projections leave them: otherwise every block's gathering begins with a copy of the whole tree
    rows = [stored.transpose(0, 1).contiguous() for stored in (key, value)]
    for block in blocks:
        keys, values = (
            stored.index_select(0, block.seen).transpose(0, 1)[:, None].expand(-1, queries.shape[1], -1, -1)
            for stored in rows
        )
        yield torch.nn.functional.scaled_dot_product_attention(
            queries[:, :, block.start : block.end], keys, values, attn_mask=block.mask, scale=scaling
        )


AttentionInterface.register(NAME, tree_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
