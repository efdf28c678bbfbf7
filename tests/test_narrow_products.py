"""Products of few rows, and how many rows are read at a time."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny_model import save_tiny_model
from torch import nn
from transformers import AutoModelForCausalLM

from constitutional.backends import decoding
from constitutional.backends.decoding import batch_sizes, decode
from constitutional.backends.narrow import NARROW, narrow_products, product
from constitutional.backends.upcast import compute_in_float32
from constitutional.records import Sampling


def splits(count: int) -> Iterator[tuple[int, ...]]:
    """Every way to read so many rows in batches."""
    for cuts in itertools.product((False, True), repeat=max(0, count - 1)):
        ends = [i + 1 for i, cut in enumerate(cuts) if cut] + [count] * (count > 0)
        yield tuple(end - begun for begun, end in zip([0, *ends], ends, strict=False))


@pytest.mark.parametrize("seed", range(12))
def test_rows_are_read_in_the_batches_that_cost_least(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    rng = random.Random(seed)
    monkeypatch.setattr(decoding, "PREFILL_TOKENS", 300)
    lengths = sorted((rng.randrange(0, 120) for _ in range(rng.randrange(0, 10))), reverse=True)
    forward = rng.choice([0, 10, 64, 1000])

    def cost(sizes: tuple[int, ...]) -> float:
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        tokens = [size * lengths[start] for size, start in zip(sizes, starts, strict=True)]
        too_large = any(size > 1 and all_ > 300 for size, all_ in zip(sizes, tokens, strict=True))
        return float("inf") if too_large else sum(forward + all_ for all_ in tokens)

    found = tuple(batch_sizes(lengths, forward))
    assert sum(found) == len(lengths) and cost(found) == min(map(cost, splits(len(lengths))))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(3,), (1, 3), (2, 5, 3), (NARROW, 3), (NARROW + 1, 3), (0, 3)])
def test_a_product_is_that_of_a_linear_layer(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    values, weight = torch.randn(shape, dtype=torch.float64), torch.randn(7, 3, dtype=torch.float64)
    added = torch.randn(7, dtype=torch.float64) if bias else None
    expected = nn.functional.linear(values, weight, added)
    found = product(values, weight, added)
    assert found.shape == expected.shape and found.is_contiguous()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def multiplied(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of every product that is turned from now on."""
    seen: list[int] = []
    mm = torch.mm

    def counting(weight: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        seen.append(rows.shape[1])
        return mm(weight, rows)

    monkeypatch.setattr(torch, "mm", counting)
    return seen


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_step_of_few_rows_is_turned_and_the_network_is_left_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    net = AutoModelForCausalLM.from_pretrained(save_tiny_model(tmp_path / "tiny"), dtype=dtype).eval()
    linear = [module for module in net.modules() if type(module) is nn.Linear]
    before = [dict(vars(module)) for module in linear]
    seen = multiplied(monkeypatch)
    decode(net, [[5, 6, 7], [8, 9], [10, 11, 12]], Sampling(max_tokens=4), lambda ids: False)
    steps = [rows for rows in seen if rows == 3]
    assert len(steps) == (4 * len(linear) if dtype == torch.float32 else 0)  # 16 bits have products of their own
    assert [dict(vars(module)) for module in linear] == before
    with pytest.raises(KeyboardInterrupt), narrow_products(net):
        raise KeyboardInterrupt
    assert [dict(vars(module)) for module in linear] == before


def test_widened_weights_are_turned_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = AutoModelForCausalLM.from_pretrained(save_tiny_model(tmp_path / "tiny"), dtype=torch.bfloat16).eval()
    compute_in_float32(net)
    own = [module.forward for module in net.modules() if type(module) is nn.Linear]
    seen = multiplied(monkeypatch)
    written = decode(net, [[5, 6, 7], [8, 9]], Sampling(max_tokens=4), lambda ids: False)
    assert seen.count(2) == 4 * len(own)
    assert [module.forward for module in net.modules() if type(module) is nn.Linear] == own
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "tiny", dtype=torch.bfloat16).float().eval()
    assert written == decode(plain, [[5, 6, 7], [8, 9]], Sampling(max_tokens=4), lambda ids: False)
