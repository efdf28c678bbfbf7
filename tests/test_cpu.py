"""A processor that announces what it cannot run must cost a warning, never the process."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from constitutional.backends import cpu, open_backend
from constitutional.cli.app import app
from constitutional.pipeline.context import Context
from constitutional.runs.engine import Here


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


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tiny_model import save_tiny_model

    return save_tiny_model(tmp_path_factory.mktemp("tiny") / "model", context=512)


@pytest.fixture
def three_threads() -> Iterator[None]:
    """Torch with another number of threads than any test asks for."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_a_backend_computes_in_the_threads_it_is_given(
    tiny: Path, three_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    for threads in (2, 1):
        open_backend(f"local:{tiny}", dtype="float32", threads=threads)
        assert torch.get_num_threads() == threads
    torch.set_num_threads(3)
    for usable, chosen in ((8, 3), (2, 2)):  # torch's own choice, while there are so many processors
        monkeypatch.setattr(cpu, "usable_processors", lambda usable=usable: usable)
        open_backend(f"local:{tiny}", dtype="float32")
        assert torch.get_num_threads() == chosen


def test_a_command_computes_in_the_threads_it_is_given(tiny: Path, three_threads: None, tmp_path: Path) -> None:
    import torch

    principle = "id: kind\n    version: 1.0.0\n    title: Kind\n    comparison_request: Which is kinder?"
    example = "{prompt: hello, better: sorry no, worse: sure yes}"
    (tmp_path / "c.yaml").write_text(
        f"id: c\nversion: 1.0.0\ntitle: C\nprinciples:\n  - {principle}\n    examples: [{example}]\n"
    )
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "hello", "chosen": "sorry no", "rejected": "sure yes"}\n')
    judge = ["--judge", f"local:{tiny}", "--display", "none", "--threads"]
    constitution = str(tmp_path / "c.yaml")
    done = CliRunner().invoke(app, ["test", constitution, *judge, "2"])
    assert (done.exit_code, torch.get_num_threads()) == (0, 2), done.output
    pairs = [
        "judge-pairs",
        str(tmp_path / "pairs.jsonl"),
        "--constitution",
        constitution,
        "--out",
        str(tmp_path / "run"),
    ]
    done = CliRunner().invoke(app, [*pairs, *judge, "1"])
    assert (done.exit_code, torch.get_num_threads()) == (0, 1), done.output
    refused = CliRunner().invoke(app, ["test", constitution, *judge, "0"])
    assert refused.exit_code == 2 and "--threads" in refused.output


def test_a_training_computes_in_the_recipes_threads(three_threads: None) -> None:
    import torch

    context = SimpleNamespace(recipe=SimpleNamespace(threads=2), folder=SimpleNamespace(engine=Here()), team=None)
    Context.begin_training(context, "sft", 3, {})  # type: ignore[arg-type]
    assert torch.get_num_threads() == 2


def test_processors_are_counted_within_a_containers_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    assert cpu.usable_processors(tmp_path) == 16  # no control groups there
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("1:name=systemd:/other\n0::/outer/inner\n")
    inner = tmp_path / "sys/fs/cgroup/outer/inner"
    inner.mkdir(parents=True)
    for top, outer, own, expected in (
        ("max 100000", "max 100000", "max 100000", 16),
        ("max 100000", "max 100000", "250000 100000", 3),
        ("max 100000", "200000 100000", "250000 100000", 2),
        ("50000 100000", "200000 100000", "max 100000", 1),
        ("garbage", "1600000 100000", "3200000 100000", 16),
    ):
        for folder, text in ((inner, own), (inner.parent, outer), (inner.parents[1], top)):
            (folder / "cpu.max").write_text(text + "\n")
        assert cpu.usable_processors(tmp_path) == expected
