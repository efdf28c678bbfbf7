"""Float32 arithmetic on weights that stay 16-bit in memory."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from constitutional.backends.narrow import product

SCRATCH = 2**24
"""Weights widened at a time (64 MB): a matrix of a 1.5B model in one piece, its vocabulary head in several."""


def compute_in_float32(net: Any) -> None:
    """Makes a network compute in float32 while its large weights keep their 16-bit type; a float32 one is unchanged.

    Each matrix is widened for its product only: the results are those of `net.float()` in half of its memory. Worth
    it where many tokens are read at once; writing one token at a time, the widening dominates.
    """
    scratch = None
    for module in net.modules():
        weight = getattr(module, "weight", None)
        if not isinstance(weight, torch.Tensor) or weight.dtype not in (torch.bfloat16, torch.float16):
            continue
        if isinstance(module, nn.Linear):
            if scratch is None:  # one for all: fresh memory for every matrix costs more than the widening
                scratch = torch.empty(SCRATCH, dtype=torch.float32, device=weight.device)
            module.forward = partial(_linear, module, scratch)  # type: ignore[method-assign]
        elif isinstance(module, nn.Embedding):
            module.register_forward_hook(lambda _module, _inputs, output: output.float())
        else:
            module.float()


@torch.no_grad()
def _linear(module: nn.Linear, scratch: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    values, bias = values.float(), None if module.bias is None else module.bias.float()
    rows = max(1, scratch.numel() // module.in_features)
    parts = []
    for start in range(0, module.out_features, rows):
        piece = module.weight[start : start + rows]
        wide = scratch[: piece.numel()].view_as(piece).copy_(piece)
        parts.append(product(values, wide, None if bias is None else bias[start : start + rows]))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
