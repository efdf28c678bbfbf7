"""A processor that announces what it cannot run must cost a warning, never the process."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from constitutional.backends import cpu


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "")
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
    cpu.amx_works.cache_clear()
    yield
    cpu.amx_works.cache_clear()


def die() -> None:
    os.kill(os.getpid(), signal.SIGILL)


def test_a_killed_probe_switches_amx_off(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(cpu, "_announces_amx", lambda: True)
    monkeypatch.setattr(cpu, "_multiply_bfloat16", die)
    cpu.amx_works()
    assert os.environ["ONEDNN_MAX_CPU_ISA"] == "AVX512_CORE_FP16"
    assert "cannot run it" in caplog.text


def test_a_surviving_probe_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_announces_amx", lambda: True)
    monkeypatch.setattr(cpu, "_multiply_bfloat16", lambda: None)
    cpu.amx_works()
    assert "ONEDNN_MAX_CPU_ISA" not in os.environ


def test_a_probe_that_raises_is_no_death(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("no torch here")

    monkeypatch.setattr(cpu, "_announces_amx", lambda: True)
    monkeypatch.setattr(cpu, "_multiply_bfloat16", fail)
    cpu.amx_works()
    assert "ONEDNN_MAX_CPU_ISA" not in os.environ


@pytest.mark.parametrize("announced", [True, False])
def test_the_users_limit_and_a_plain_processor_are_not_probed(monkeypatch: pytest.MonkeyPatch, announced: bool) -> None:
    if announced:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    monkeypatch.setattr(cpu, "_announces_amx", lambda: announced)
    monkeypatch.setattr(cpu, "_survives", lambda work: pytest.fail("probed"))
    cpu.amx_works()


def test_bfloat16_runs_after_the_check() -> None:
    """On a processor with broken AMX this test kills the process when the check does not work."""
    cpu.amx_works()
    import torch

    matrix = torch.ones(64, 64, dtype=torch.bfloat16)
    assert float((matrix @ matrix)[0, 0]) == 64.0
