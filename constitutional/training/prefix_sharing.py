"""Training batches in which what rows begin with alike is computed once, forward and backward.

Every row of a chat model begins with the same system prompt, both sides of a comparison with the same conversation,
the answers of a group with the same question. Such rows are laid out as one prefix tree (`backends.prefix_tree`) for
the network's backbone, and each row is handed the states of its own path: heads, losses and figures of a trainer see
what they would have seen, and a shared token's gradient is the sum of those of its copies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from constitutional.backends.prefix_tree import Pack
from constitutional.backends.tree_attention import attend_in_blocks, block_mask
from constitutional.backends.tree_mask import attends_fully

WORTH = 0.9
"""Share of a batch's tokens, filling included, that are distinct: above it the batch is computed as it is."""

NODES = 4_096
"""Most tokens in one tree, unless one row alone is longer: its mask has a byte for each pair of them."""


@contextmanager
def sharing_prefixes(*networks: Any) -> Iterator[None]:
    """Within it batches of these networks are computed as prefix trees, on a CPU, where that spares enough.

    Losses and gradients are those of the padded batch up to rounding. Left as they are: families without rotary
    positions, with windows or other kinds of layers, with dropout that is on, and batches with more than token ids, a
    mask and positions. On a GPU nothing changes: what trees gain there has not been measured.

    Args:
        networks: transformers models, with adapters or without; None is passed over.
    """
    taken = [net for net in dict.fromkeys(map(_without_adapters, networks)) if _takes_trees(net)]
    for net in taken:
        attend_in_blocks(net)
        net.base_model.forward = partial(_forward, net.base_model.forward, net.base_model)
    try:
        yield
    finally:
        for net in taken:
            del net.base_model.forward  # the class's own again
            net.set_attn_implementation("sdpa")


def _without_adapters(net: Any) -> Any:
    return net.get_base_model() if hasattr(net, "get_base_model") else net


def _takes_trees(net: Any) -> bool:
    return (
        isinstance(net, PreTrainedModel)
        and net.base_model is not net
        and hasattr(net.base_model, "rotary_emb")  # only distances count: filling on the left moves nothing
        and getattr(net.config, "_attn_implementation", None) == "sdpa"
        and attends_fully(net)
    )


def _forward(
    padded: Any,
    backbone: Any,
    input_ids: Tensor | None = None,
    attention_mask: Tensor | None = None,
    position_ids: Tensor | None = None,
    **more: Any,
) -> Any:
    """The backbone's states of a padded batch, rows x tokens x width; those of filling mean nothing."""
    usual = all(value is None or value is False for value in more.values())
    rows = _rows(input_ids, attention_mask, position_ids) if usual and not _drops(backbone) else None
    trees = _trees([ids for _, ids in rows]) if rows is not None else []
    if input_ids is None or rows is None or sum(len(pack.tokens) for pack, _ in trees) > WORTH * input_ids.numel():
        given = {"attention_mask": attention_mask, "position_ids": position_ids, **more}
        return padded(input_ids=input_ids, **{name: value for name, value in given.items() if value is not None})
    places, states, before = torch.zeros_like(input_ids), [], 0
    for pack, paths in trees:
        output = padded(
            input_ids=torch.tensor([pack.tokens]),
            position_ids=torch.tensor([pack.depth]),
            attention_mask=block_mask(pack.parent),
            use_cache=False,
        )
        states.append(output.last_hidden_state[0])
        for row, path in paths.items():
            start, _ = rows[row]
            places[row, start : start + len(path)] = torch.tensor(path) + before
        before += len(pack.tokens)
    # not by indexing, whose backward adds up in an order that changes from run to run
    output.last_hidden_state = nn.functional.embedding(places, torch.cat(states))
    return output


def _rows(
    input_ids: Tensor | None, attention_mask: Tensor | None, position_ids: Tensor | None
) -> list[tuple[int, list[int]]] | None:
    """Where each row's tokens begin, and its tokens; None for what is no padded batch on a CPU."""
    if input_ids is None or input_ids.device.type != "cpu" or input_ids.dim() != 2 or len(input_ids) < 2:
        return None
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    if mask.shape != input_ids.shape:
        return None
    real = mask.bool()
    lengths = real.sum(1)
    starts = real.int().argmax(1)  # the first of the largest
    columns = torch.arange(input_ids.shape[1])
    together = (columns >= starts[:, None]) & (columns < (starts + lengths)[:, None])
    if not torch.equal(together, real) or not bool(lengths.any()):
        return None
    if position_ids is not None:
        expected = (real.cumsum(1) - 1).expand_as(input_ids)
        if position_ids.shape != input_ids.shape or not torch.equal(position_ids[real], expected[real]):
            return None
    return [
        (start, ids[start : start + length])
        for ids, start, length in zip(input_ids.tolist(), starts.tolist(), lengths.tolist(), strict=True)
    ]


def _trees(rows: Sequence[Sequence[int]]) -> list[tuple[Pack, dict[int, list[int]]]]:
    """Rows as prefix trees, each with the paths of its rows by their number."""
    found = [(Pack(), dict[int, list[int]]())]
    for row in sorted(range(len(rows)), key=lambda number: list(rows[number])):
        pack, paths = found[-1]
        if pack.tokens and len(pack.tokens) + pack.new_nodes(rows[row]) > NODES:
            pack, paths = Pack(), {}
            found.append((pack, paths))
        paths[row] = pack.insert(rows[row])
    return found


def _drops(backbone: Any) -> bool:
    """Whether dropout is on: copies of a token would each lose something else."""
    return backbone.training and (
        any(isinstance(module, nn.Dropout) and module.p > 0 for module in backbone.modules())
        or getattr(backbone.config, "attention_dropout", 0) > 0
    )
