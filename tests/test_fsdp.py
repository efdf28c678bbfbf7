"""Two processes that share the weights out (FSDP2, by the shipped launch file) train what one process does."""

from __future__ import annotations

import json
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from rl_tasks import policy_folder
from test_launched_trainings import HERE, TOLERANCE, launch, weights

pytestmark = pytest.mark.slow
TASKS = ("sft", "pm", "ensemble", "dpo", "rloo", "grpo")
SETTINGS = HERE.parent / "examples" / "04_many_gpus" / "fsdp2.yaml"


def fsdp(*words: str) -> subprocess.CompletedProcess[str]:
    """`accelerate launch` of two processes on the CPU by the shipped file, whose number type is for GPUs."""
    with socket.create_server(("localhost", 0)) as taken:
        port = taken.getsockname()[1]
    by_file = ["--config_file", str(SETTINGS), "--num_processes", "2", "--mixed_precision", "no"]
    return launch("-m", "accelerate.commands.launch", *by_file, "--main_process_port", str(port), *words)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("fsdp")
    script, policy = str(HERE / "launched_training.py"), str(policy_folder(root))
    for name, run, tasks in (("one", launch, TASKS), ("two", fsdp, (*TASKS, "sft@5"))):
        done = run(script, policy, str(root / name), *tasks)
        assert done.returncode == 0, done.stderr[-4000:]
    return root


@pytest.mark.parametrize("task", TASKS)
def test_weights_in_parts_are_trained_like_whole_ones(trained: Path, task: str) -> None:
    one, two = (weights(trained / name / task / "model") for name in ("one", "two"))
    assert one.keys() == two.keys() and one  # whole models, put together
    files = [{path.name for path in (trained / name / task / "model").iterdir()} for name in ("one", "two")]
    assert files[0] == files[1]
    assert max(float((one[key] - two[key]).abs().max()) for key in one) < TOLERANCE
    told, expected = (json.loads((trained / name / task / "told.json").read_text()) for name in ("two", "one"))
    assert told["rewards"] == expected["rewards"]
    mine, theirs = (told_of(one) for one in (told, expected))
    assert mine == theirs


def told_of(told: dict[str, Any]) -> dict[str, Any]:
    result = json.loads(told["result"])
    return {name: result.get(name) for name in ("rows", "steps", "completions", "groups", "trainable_parameters")}


def test_the_weights_were_in_parts(trained: Path) -> None:
    assert json.loads((trained / "two" / "sft" / "told.json").read_text())["in_parts"] is True
    assert json.loads((trained / "one" / "sft" / "told.json").read_text())["in_parts"] is False


def test_an_interrupted_training_in_parts_goes_on_bit_for_bit(trained: Path) -> None:
    whole, resumed = (weights(trained / "two" / name / "model") for name in ("sft", "sft@5"))
    assert whole.keys() == resumed.keys() and all(whole[key].equal(resumed[key]) for key in whole)
    steps = [entry["step"] for entry in json.loads((trained / "two" / "sft@5" / "told.json").read_text())["logs"]]
    assert steps[0] == 5
