"""Next tokens from logits: repetition penalty, temperature, top-p; one uniform number a row, and no generator."""

from __future__ import annotations

import torch

from constitutional.records import Sampling

HEAD = 128
"""Tokens looked at first; sorting a whole vocabulary costs a hundred times as much and is rarely needed."""

LEAST = -80.0
"""Log-probability relative to the likeliest token, below which all are alike: exp of less makes denormal numbers, on
which processors are ten times slower."""


def penalise_repetition(logits: torch.Tensor, seen: torch.Tensor, penalty: float) -> None:
    """Makes tokens already seen less likely, in place (Keskar et al. 2019, section 4.1).

    Args:
        logits: rows x vocabulary.
        seen: rows x any number, ids of the tokens of each row's prompt and answer; repeats do no harm.
        penalty: positive logits are divided by it, negative ones multiplied.
    """
    scores = logits.gather(1, seen)
    logits.scatter_(1, seen, torch.where(scores < 0, scores * penalty, scores / penalty))


def pick(logits: torch.Tensor, uniforms: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """One token per row: the likeliest at temperature 0, else by inversion of the nucleus' distribution function.

    The nucleus is the smallest set of likeliest tokens that holds at least `top_p` of the mass (Holtzman et al. 2020).
    Tokens are ordered from the likeliest on, so one number in [0, 1) decides, whoever shares the batch.

    Args:
        logits: rows x vocabulary, float32, penalties applied.
        uniforms: one number in [0, 1) per row, float64.
        sampling: `temperature` and `top_p`.
    """
    if sampling.temperature == 0:
        return logits.argmax(-1)
    scaled = logits / sampling.temperature
    scaled -= scaled.amax(-1, keepdim=True)
    scaled.clamp_(min=LEAST)
    total = scaled.logsumexp(-1, keepdim=True)
    likeliest, tokens = scaled.topk(min(HEAD, scaled.shape[-1]))
    chosen, settled = _invert((likeliest - total).double().exp(), uniforms, sampling.top_p)
    picked = tokens.gather(1, chosen[:, None])[:, 0]
    for row in torch.nonzero(~settled).flatten().tolist():
        ordered, order = scaled[row : row + 1].sort(-1, descending=True)
        mass = (ordered - total[row]).double().exp()
        chosen, _ = _invert(mass / mass.sum(), uniforms[row : row + 1], sampling.top_p)
        picked[row] = order[0, chosen[0]]
    return picked


def _invert(mass: torch.Tensor, uniforms: torch.Tensor, top_p: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Which column each row's number falls on, and whether the columns suffice to say so.

    Args:
        mass: rows x columns, of the likeliest tokens in falling order.
        uniforms: per row.
        top_p: share of the mass that may be drawn.
    """
    upto = mass.cumsum(-1)
    last = mass.shape[-1] - 1
    end = (upto < top_p).sum(-1)  # the first column that completes the nucleus
    limit = torch.where(end > last, torch.ones_like(uniforms), upto.gather(1, end.clamp(max=last)[:, None])[:, 0])
    if top_p == 1:
        limit = torch.ones_like(uniforms)  # rounding may complete it early
    chosen = (upto <= (uniforms * limit)[:, None]).sum(-1)
    settled = (chosen <= last) & ((end <= last) | (top_p == 1))
    return chosen.clamp(max=last), settled
