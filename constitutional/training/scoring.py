"""Scores of token sequences under a sequence classifier; a beginning that several share is computed once.

Answers to one prompt, and one answer under several principles, begin alike. They are laid out as one prefix tree for
one forward pass (`backends.prefix_tree`); only the last token's hidden state of each reaches the head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from transformers import PreTrainedModel

from constitutional.backends.prefix_tree import Pack
from constitutional.backends.tree_mask import attends_fully, tree_mask

TREE_NODES = 1_024
"""Most tokens in one tree, unless one sequence alone is longer."""

ENOUGH = 128
"""Tokens at which a matrix product is at full speed: no smaller tree ends before it must."""

LITTLE = 8
"""A tree ends before a sequence that shares less than one in so many of its tokens. These are computed again, but
attention, which is computed between all tokens of a tree, gets smaller."""

_States = tuple[list[tuple[int, ...]], torch.Tensor]
"""Sequences, and the last hidden state of each."""

WORTH = 0.8
"""Share of all tokens that are distinct below which trees are faster than padded batches."""


def score_ids(
    network: Any, sequences: Sequence[Sequence[int]], *, pad: int, batch_tokens: int = 4096, whole: bool = True
) -> list[float]:
    """Scores of token sequences from a one-label sequence classifier, in order.

    Equal sequences are computed once. Where much is shared, prefix trees are computed; else sequences of like length
    go together, padded on the right. Both give what a forward of each sequence alone gives, up to rounding.

    Args:
        network: a sequence classifier in evaluation mode.
        sequences: token ids; none empty.
        pad: the id to pad with.
        batch_tokens: padded tokens computed at a time where there are no trees.
        whole: whether the weights are all here. Where they lie in parts over processes only the network's own forward
            puts them together, and trees call what is inside it; every process must then ask for the same scores.
    """
    distinct = sorted({tuple(ids) for ids in sequences})
    if whole and _takes_trees(network) and distinct_share(distinct) < WORTH:
        found = _score_trees(network, distinct, pad)
    else:
        found = _score_padded(network, distinct, pad, batch_tokens)
    return [found[tuple(ids)] for ids in sequences]


def distinct_share(ordered: Sequence[Sequence[int]]) -> float:
    """Distinct tokens of a prefix tree over sequences in lexicographic order, as a share of all their tokens."""
    total = sum(map(len, ordered))
    return 1 - sum(_common(one, other) for one, other in pairwise(ordered)) / total if total else 1.0


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(one, other, strict=False)) if x != y), min(len(one), len(other)))


def _takes_trees(network: Any) -> bool:
    """Whether a network is a plain classifier with a linear head whose layers take a mask of ours."""
    return (
        isinstance(network, PreTrainedModel)
        and isinstance(getattr(network, "score", None), torch.nn.Linear)
        and getattr(network.config, "_attn_implementation", None) == "sdpa"
        and attends_fully(network)
    )


def last_states(network: Any, sequences: Sequence[Sequence[int]], *, pad: int) -> torch.Tensor:
    """The last token's hidden state of each sequence, (sequences, width) float32: what the head of a classifier reads.

    Args:
        network: a sequence classifier in evaluation mode whose weights are all here.
        sequences: token ids; none empty.
        pad: the id the classifier looks past at the end of a sequence.
    """
    distinct = sorted({tuple(ids) for ids in sequences})
    trees = _takes_trees(network) and distinct_share(distinct) < WORTH
    found = _tree_states(network, distinct, pad) if trees else _lone_states(network, distinct, pad)
    states = {ids: row for group, rows in found for ids, row in zip(group, rows.float().cpu(), strict=True)}
    return torch.stack([states[tuple(ids)] for ids in sequences])


def _score_trees(network: Any, ordered: Sequence[tuple[int, ...]], pad: int) -> dict[tuple[int, ...], float]:
    scores: dict[tuple[int, ...], float] = {}
    for group, states in _tree_states(network, ordered, pad):
        with torch.inference_mode():
            values = network.score(states)[:, 0].float()
        scores.update(zip(group, values.tolist(), strict=True))
    return scores


def _tree_states(network: Any, ordered: Sequence[tuple[int, ...]], pad: int) -> Iterator[_States]:
    device = network.device
    for pack, last in _trees(ordered, pad):
        plain = pack.parent == list(range(-1, len(pack.parent) - 1))  # one sequence: the model's own causal mask
        with torch.inference_mode():
            hidden = network.base_model(
                input_ids=torch.tensor([pack.tokens], device=device),
                position_ids=torch.tensor([pack.depth], device=device),
                attention_mask=None if plain else tree_mask(pack.parent).to(device),
                use_cache=False,
            ).last_hidden_state[0]
            states = hidden[torch.tensor(list(last.values()), device=device)]
        yield list(last), states


def _lone_states(network: Any, sequences: Sequence[tuple[int, ...]], pad: int) -> Iterator[_States]:
    for ids in sequences:
        last = max((i for i, token in enumerate(ids) if token != pad), default=0)
        with torch.inference_mode():
            hidden = network.base_model(input_ids=torch.tensor([ids], device=network.device), use_cache=False)
        yield [ids], hidden.last_hidden_state[0, [last]]  # a copy: a view would keep the states of all tokens


def _trees(ordered: Sequence[tuple[int, ...]], pad: int) -> Iterator[tuple[Pack, dict[tuple[int, ...], int]]]:
    """Trees over sequences in lexicographic order, each with the node whose hidden state a sequence is scored by.

    That is its last token that is not the padding id: some templates end in it, and the classifier, in training too,
    looks past it.
    """
    pack, last = Pack(), dict[tuple[int, ...], int]()
    for ids in ordered:
        new = pack.new_nodes(ids)
        full = len(pack.tokens) + new > TREE_NODES
        another = len(pack.tokens) >= ENOUGH and (len(ids) - new) * LITTLE < len(pack.tokens)
        if pack.tokens and (full or another):
            yield pack, last
            pack, last = Pack(), {}
        path = pack.insert(ids)
        last[ids] = next((node for node, token in zip(path[::-1], ids[::-1], strict=True) if token != pad), path[0])
    if last:
        yield pack, last


@torch.no_grad()  # not in inference mode: FSDP2 puts weights together into tensors that it must be able to change
def _score_padded(
    network: Any, sequences: Sequence[tuple[int, ...]], pad: int, batch_tokens: int
) -> dict[tuple[int, ...], float]:
    scores: dict[tuple[int, ...], float] = {}
    for batch in _batches(sequences, batch_tokens):
        ids = torch.full((len(batch), len(batch[-1])), pad, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, sequence in enumerate(batch):
            ids[row, : len(sequence)] = torch.tensor(sequence)
            mask[row, : len(sequence)] = 1
        device = network.device
        logits = network(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False).logits
        scores.update(zip(batch, logits[:, 0].float().tolist(), strict=True))
    return scores


def _batches(sequences: Sequence[tuple[int, ...]], batch_tokens: int) -> list[list[tuple[int, ...]]]:
    batches: list[list[tuple[int, ...]]] = []
    for ids in sorted(sequences, key=len):
        if batches and (len(batches[-1]) + 1) * len(ids) <= batch_tokens:
            batches[-1].append(ids)
        else:
            batches.append([ids])
    return batches
