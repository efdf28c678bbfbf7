"""Rollouts: answers drawn from the policy, as text for the reward and as padded tensors for the update."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from constitutional.backends.decoding import decode
from constitutional.backends.padded import generate_padded
from constitutional.backends.tokens import stop_ids
from constitutional.backends.tree_mask import attends_fully
from constitutional.records import Sampling
from constitutional.training.ppo.networks import Layout


@dataclass(frozen=True)
class Drawn:
    """Answers to some prompts: token ids with the one that ends the turn, and text without it."""

    prompts: list[list[int]]
    answers: list[list[int]]
    texts: list[str]
    ended: list[bool]


def draw(net: Any, tokenizer: Any, prompts: Sequence[list[int]], sampling: Sampling) -> Drawn:
    """One answer to each prompt; each draws from a random stream of its own, whoever shares the batch."""
    stops = frozenset(stop_ids(net.generation_config, tokenizer))
    if attends_fully(net):
        written = decode(net, prompts, sampling, lambda ids: ids[-1] in stops)
    else:
        written = generate_padded(net, tokenizer, prompts, sampling, sorted(stops))
    answers, texts, ended = [], [], []
    for ids in written:
        end = next((i for i, token in enumerate(ids) if token in stops), len(ids))
        answers.append(ids[: end + 1])
        texts.append(tokenizer.decode(ids[:end], skip_special_tokens=True))
        ended.append(end < len(ids))
    return Drawn(list(prompts), answers, texts, ended)


def lay_out(drawn: Drawn, rewarded: Sequence[bool], pad: int, device: torch.device) -> Layout:
    """Tensors of some rollouts. One without a reward keeps its row, so that all processes do the same steps, but its
    mask is 0: nothing is learned from it."""
    before, after = max(map(len, drawn.prompts)), max(map(len, drawn.answers))
    tokens = torch.full((len(drawn.prompts), before + after), pad)
    attention = torch.zeros_like(tokens)
    mask = torch.zeros((len(drawn.prompts), after))
    for row, (prompt, answer) in enumerate(zip(drawn.prompts, drawn.answers, strict=True)):
        start, end = before - len(prompt), before + len(answer)
        tokens[row, start:end] = torch.tensor(prompt + answer)
        attention[row, start:end] = 1
        mask[row, : len(answer)] = float(rewarded[row])
    return Layout(tokens.to(device), attention.to(device), mask.to(device))


def scores_tensor(scores: Sequence[float | None], device: torch.device) -> Tensor:
    """One number a rollout; where there is no reward it is 0, and its mask keeps it from being looked at."""
    return torch.tensor([0.0 if score is None else score for score in scores], device=device)
