"""Float32 arithmetic over 16-bit weights against the widened network, and what `auto` resolves to."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_model import save_tiny_model
from transformers import AutoModelForCausalLM

from constitutional.backends import cpu, open_backend, upcast
from constitutional.backends.upcast import compute_in_float32


@pytest.fixture(scope="module")
def halved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cpu.amx_works()  # this file multiplies bfloat16 by itself
    folder = save_tiny_model(tmp_path_factory.mktemp("halved") / "model")
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    network.to(torch.bfloat16).save_pretrained(folder)
    return folder


def test_results_are_those_of_the_widened_network(halved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = AutoModelForCausalLM.from_pretrained(halved, dtype=torch.float32).eval()
    narrow = AutoModelForCausalLM.from_pretrained(halved, dtype="auto").eval()
    plain = AutoModelForCausalLM.from_pretrained(halved, dtype="auto").eval()
    monkeypatch.setattr(upcast, "SCRATCH", 1000)  # so that matrices are widened in several pieces
    compute_in_float32(narrow)
    ids = torch.arange(4, 36).reshape(2, 16)
    with torch.inference_mode():
        expected, got, rounded = (net(ids).logits.float() for net in (wide, narrow, plain))
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    assert (rounded - expected).abs().max() > 1e-4  # so the comparison can fail


def test_large_weights_stay_narrow(halved: Path) -> None:
    network = AutoModelForCausalLM.from_pretrained(halved, dtype="auto").eval()
    compute_in_float32(network)
    assert network.get_input_embeddings().weight.dtype == torch.bfloat16


def test_auto_names_what_is_computed_in(halved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for works, dtype in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(cpu, "amx_works", lambda works=works: works)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert open_backend(f"local:{halved}").model.endswith(f"/{dtype}")
