"""Training batches in which what rows begin with alike is computed once, forward and backward.

Every row of a chat model begins with the same system prompt, both sides of a comparison with the same conversation,
the answers of a group with the same question. Such rows are laid out as one prefix tree (`backends.prefix_tree`) for
the network's backbone, and each row is handed the states of its own path: heads, losses and figures of a trainer see
what they would have seen, and a shared token's gradient is the sum of those of its copies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
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

DISTANCES = {"llama", "qwen2", "qwen3", "smollm3", "mixtral", "olmo2", "gpt_neox"}
"""Families that read how far tokens are apart and nothing else of their places: filling on the left moves nothing.

Others share where there is none or positions are given; HunYuan's, for one, have learned weights behind the rotation.
"""


@contextmanager
def sharing_prefixes(*networks: Any) -> Iterator[None]:
    """Within it batches of these networks are computed as prefix trees, on a CPU, where that spares enough.

    Losses and gradients are those of the padded batch up to rounding. Left as they are: families that trees do not fit,
    networks with something drawn in training (dropout, noise), and batches with more than token ids, a mask and
    positions. On a GPU nothing changes: what trees gain there has not been measured.

    Args:
        networks: transformers models, with adapters or without; None is passed over.
    """
    with ExitStack() as stack:
        for net in dict.fromkeys(map(_without_adapters, networks)):
            if _takes_trees(net):
                backbone = net.base_model
                stack.callback(net.set_attn_implementation, "sdpa")
                attend_in_blocks(net)
                stack.callback(vars(backbone).pop, "forward", None)  # the class's own again
                backbone.forward = partial(_forward, backbone.forward, backbone)
        yield


def _without_adapters(net: Any) -> Any:
    return net.get_base_model() if hasattr(net, "get_base_model") else net


def _takes_trees(net: Any) -> bool:
    return (
        isinstance(net, PreTrainedModel)
        and "forward" not in vars(net.base_model)  # of somebody else's hook
        and hasattr(net.base_model, "rotary_emb")
        and getattr(net.config, "_attn_implementation", None) == "sdpa"
        and net._can_set_attn_implementation()
        and not (net.config.output_hidden_states or net.config.output_attentions)
        and not _draws(net.config.to_dict())
        and attends_fully(net)
    )


def _draws(settings: Mapping[Any, Any]) -> bool:
    """Whether a network's own settings have it draw something in training, by whatever module or function."""
    return settings.get("model_type") == "phimoe" or any(  # its experts are drawn
        _draws(value)
        if isinstance(value, dict)
        else isinstance(value, float) and value > 0 and ("drop" in name or "jitter" in name)
        for name, value in settings.items()
        if isinstance(name, str) and not name.startswith("classifier")  # of heads that are not the backbone's
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
    usual = all(value is None or value is False for value in more.values()) and not _draws_now(backbone)
    rows = _rows(backbone.config, input_ids, attention_mask, position_ids) if usual else None
    trees = _trees([ids for _, ids in rows]) if rows is not None else []
    nodes = sum(len(pack.tokens) for pack, _ in trees)
    twice = len(trees) > 1 and backbone.is_gradient_checkpointing  # two backward passes would come to each weight
    if input_ids is None or rows is None or nodes > WORTH * input_ids.numel() or twice:
        return padded(input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, **more)
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
    config: Any, input_ids: Tensor | None, attention_mask: Tensor | None, position_ids: Tensor | None
) -> list[tuple[int, list[int]]] | None:
    """Where each row's tokens begin, and its tokens; None for what is no padded batch on a CPU.

    And for one whose filling moves the positions that the family reads.
    """
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
    elif config.model_type not in DISTANCES and bool(starts.any()):
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


def _draws_now(backbone: Any) -> bool:
    """Whether dropout (adapters have their own) or noise is on: copies of a token would each get something else."""
    return backbone.training and (
        bool(getattr(backbone.get_input_embeddings(), "neftune_noise_alpha", None))
        or any(isinstance(module, nn.Dropout) and module.p > 0 for module in backbone.modules())
    )
