"""Products of few rows, as writing token by token makes them: they should cost no more than reading the weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

NARROW = 128
"""Most rows of a product that is turned: of 256 nothing is won (docs/performance.md)."""


@contextmanager
def narrow_products(net: Any) -> Iterator[None]:
    """Within it a network's linear layers multiply few rows as weights times rows, on a CPU and of 32 bits or more.

    What is added up is the same. On AMD, MKL multiplies rows times weights at a fraction of that rate (docs/LOG.md).
    """
    layers = [module for module in net.modules() if type(module) is nn.Linear and _may_turn(module)]
    for layer in layers:
        layer.forward = partial(_linear, layer)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def product(values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """As `torch.nn.functional.linear`; rows of `values` are all but its last dimension."""
    rows = values.numel() // max(1, values.shape[-1])
    if not 1 < rows <= NARROW:
        return nn.functional.linear(values, weight, bias)
    turned = torch.mm(weight, values.reshape(rows, -1).t()).t().contiguous()
    return (turned if bias is None else turned + bias).view(*values.shape[:-1], -1)


def _may_turn(layer: nn.Linear) -> bool:
    """Not a layer that computes in a way of its own (`upcast`)."""
    return "forward" not in vars(layer) and layer.weight.device.type == "cpu" and layer.weight.dtype.itemsize >= 4


def _linear(layer: nn.Linear, values: torch.Tensor) -> torch.Tensor:
    return product(values, layer.weight, layer.bias)
