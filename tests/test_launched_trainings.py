"""Two processes train what one does, from the same settings: the rows of every step are shared out, not doubled.

Weights agree to 1e-5, where training moves them by a hundred times that and more: sums are taken in another order.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rl_tasks import policy_folder
from safetensors.torch import load_file
from training_recipe import SETS, training_recipe, write_training_recipe

from constitutional.errors import ConfigError
from constitutional.pipeline import run_recipe
from constitutional.training.trl_settings import shared_batch

HERE = Path(__file__).parent
TASKS = ("sft", "pm", "ensemble", "dpo", "rloo", "grpo", "best_of_n", "rloo_watched")
TORCHRUN = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "0", "--standalone"]
TOLERANCE = 1e-5


DDP = HERE.parent / "examples" / "04_many_gpus" / "ddp.yaml"
# the shipped file, but two processes, and not in a number type for GPUs
CHOSEN = ["--config_file", str(DDP), "--num_processes", "2", "--mixed_precision", "no", "--main_process_port", "0"]
ACCELERATE = ["-m", "accelerate.commands.launch", *CHOSEN]


def launch(*words: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE)]),
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    return subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("launched")
    policy = str(policy_folder(root))
    for name, launcher, tasks in (("one", [], TASKS), ("two", TORCHRUN, (*TASKS, "sft@5"))):
        done = launch(*launcher, str(HERE / "launched_training.py"), policy, str(root / name), *tasks)
        assert done.returncode == 0, done.stderr[-4000:]
    return root


def weights(folder: Path) -> dict[str, Any]:
    return {
        f"{path.relative_to(folder)}/{name}": tensor
        for path in sorted(folder.rglob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_two_processes_train_what_one_does(trained: Path, task: str) -> None:
    one, two = (weights(trained / name / task / "model") for name in ("one", "two"))
    assert one.keys() == two.keys() and one
    assert max(float((one[key] - two[key]).abs().max()) for key in one) < TOLERANCE
    before = weights(trained / "policy")
    moved = [float((one[key] - before[other]).abs().max()) for key in one for other in before if key.endswith(other)]
    assert max(moved) > 100 * TOLERANCE
    told, expected = (json.loads((trained / name / task / "told.json").read_text()) for name in ("two", "one"))
    assert told["rewards"] == expected["rewards"]
    for mine, theirs in zip(told["logs"], expected["logs"], strict=True):
        assert mine["step"] == theirs["step"] and mine["steps"] == theirs["steps"]
        assert mine.get("loss") == pytest.approx(theirs.get("loss"), abs=1e-3)
        assert mine.get("num_tokens") == theirs.get("num_tokens")
        probed = [name for name in theirs if name.startswith("probe/")]
        assert [mine.get(name) for name in probed] == pytest.approx([theirs[name] for name in probed], abs=1e-3)
    mine, theirs = (json.loads(one["result"]) for one in (told, expected))
    counted = ("rows", "steps", "completions", "groups", "zero_spread_groups", "trainable_parameters")
    assert {name: mine.get(name) for name in counted} == {name: theirs.get(name) for name in counted}


@pytest.mark.slow
def test_probes_are_shared_out_and_the_leading_process_alone_tells_of_them(trained: Path) -> None:
    one, two, other = (
        [json.loads(line) for line in json.loads((trained / folder / "rloo_watched" / file).read_text())]
        for folder, file in (("one", "heard-0.json"), ("two", "heard-0.json"), ("two", "heard-1.json"))
    )
    assert other == [] and two == one
    answers = [record for record in one if "text" in record]
    assert [(record["step"], record["prompt_id"]) for record in answers] == [
        (step, record["prompt_id"]) for step in (0, 2, 4, 6) for record in answers[:4]
    ]
    assert [(r["step"], r["action"]) for r in one if "text" not in r] == [(1, "lower_lr")]


@pytest.mark.slow
def test_an_interrupted_launch_goes_on_bit_for_bit(trained: Path) -> None:
    whole, resumed = (weights(trained / "two" / name / "model") for name in ("sft", "sft@5"))
    assert whole.keys() == resumed.keys() and all(whole[key].equal(resumed[key]) for key in whole)
    steps = [entry["step"] for entry in json.loads((trained / "two" / "sft@5" / "told.json").read_text())["logs"]]
    assert steps[0] == 5
    (marker,) = (trained / "two" / "sft@5" / "checkpoints").glob("*/complete.json")
    assert json.loads(marker.read_text()) == {"processes": 2, "step": 4}


@pytest.mark.slow
def test_a_recipe_under_a_launcher_leaves_one_run_like_that_of_one_process(tmp_path: Path) -> None:
    recipe = write_training_recipe(tmp_path / "in")
    run_recipe(training_recipe(recipe), recipe, tmp_path / "one")
    sets = [word for value in SETS for word in ("--set", value)]
    command = ["run", str(recipe), "--out", str(tmp_path / "two"), "--display", "none", *sets]
    done = launch(*ACCELERATE, str(HERE / "launched_command.py"), *command)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "a group is left open" not in done.stderr  # whose threads abort a finished process now and then
    assert done.stdout.count("report: ") == 1
    one, two = (json.loads((tmp_path / name / "current.json").read_text()) for name in ("one", "two"))
    assert one == two  # the same stages under the same keys
    logged, expected = (
        [(row["stage"], row["step"]) for row in map(json.loads, (tmp_path / name / "metrics.jsonl").open())]
        for name in ("two", "one")
    )
    assert logged == expected
    told = [json.loads(line) for line in (tmp_path / "two" / "events.jsonl").open()]
    assert [row["step"] for row in told if row["kind"] == "step"] == list(two)
    found, wanted = (weights(tmp_path / name / one["sft"] / "sl-cai") for name in ("two", "one"))
    assert max(float((found[key] - wanted[key]).abs().max()) for key in wanted) < TOLERANCE
    drawn, expected_rows = ((tmp_path / name / one["rl"] / "rewards.jsonl").read_text() for name in ("two", "one"))
    assert drawn.count("\n") == expected_rows.count("\n") == 3 * 2 * 2


@pytest.mark.slow
def test_a_recipe_that_fails_under_a_launcher_ends_every_process_with_one_message(tmp_path: Path) -> None:
    recipe = write_training_recipe(tmp_path / "in")
    sets = [word for value in (*SETS, "sft.trl.learning_rate=0") for word in ("--set", value)]
    command = ["-m", "constitutional", "sft", str(recipe), "--out", str(tmp_path / "run"), "--display", "none", *sets]
    done = launch(*TORCHRUN, *command)
    assert done.returncode != 0
    assert "error: no weight changed in 2 steps" in done.stderr
    assert "constitutional/pipeline" not in done.stderr  # the only traceback is the launcher's own
    assert not list((tmp_path / "run").glob("stages/*-sft/*/manifest.json"))


@pytest.mark.parametrize(
    ("micro", "rounds", "processes", "expected"),
    [(4, 4, 2, (4, 2)), (4, 4, 8, (2, 1)), (4, 1, 2, (2, 1)), (3, 2, 2, (3, 1)), (4, 3, 2, (3, 2)), (1, 6, 6, (1, 1))],
)
def test_sizes_of_several_processes_make_the_same_step(
    micro: int, rounds: int, processes: int, expected: tuple[int, int]
) -> None:
    from trl import GRPOConfig

    chosen = {"per_device_train_batch_size": micro, "gradient_accumulation_steps": rounds}
    found = shared_batch(GRPOConfig, chosen, processes)
    assert (found["per_device_train_batch_size"], found["gradient_accumulation_steps"]) == expected
    assert found["per_device_train_batch_size"] * found["gradient_accumulation_steps"] * processes == micro * rounds
    drawn = shared_batch(GRPOConfig, {**chosen, "steps_per_generation": 2 * rounds}, processes)
    assert drawn["steps_per_generation"] * expected[0] * processes == 2 * micro * rounds


@pytest.mark.parametrize(("micro", "rounds", "drawn", "processes"), [(2, 2, 3, 4), (4, 3, 1, 3)])
def test_rollouts_that_cannot_be_shared_out_are_refused(micro: int, rounds: int, drawn: int, processes: int) -> None:
    from trl import GRPOConfig

    chosen = {"per_device_train_batch_size": micro, "gradient_accumulation_steps": rounds}
    with pytest.raises(ConfigError, match=r"steps_per_generation: \d+ rows drawn at once cannot be shared by"):
        shared_batch(GRPOConfig, {**chosen, "steps_per_generation": drawn}, processes)


def test_a_step_that_cannot_be_shared_out_is_refused() -> None:
    from trl import SFTConfig

    with pytest.raises(ConfigError, match=r"a step of 6 rows .* cannot be shared by 4 processes"):
        shared_batch(SFTConfig, {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 2}, 4)


@pytest.mark.parametrize("name", ["ddp", "fsdp2", "zero3"])
def test_a_shipped_launch_file_says_what_accelerate_knows(name: str) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    found = load_config_from_file(str(HERE.parent / "examples" / "04_many_gpus" / f"{name}.yaml"))
    assert found.num_processes == 8 and not found.use_cpu
    assert found.distributed_type == {"ddp": "MULTI_GPU", "fsdp2": "FSDP", "zero3": "DEEPSPEED"}[name]


@pytest.mark.parametrize("words", [{"engine": object()}, {"sets": ["rounds=2"]}])
def test_what_one_process_must_do_is_refused_to_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: dict[str, Any]
) -> None:
    recipe = write_training_recipe(tmp_path / "in")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="one process only"):
        run_recipe(training_recipe(recipe, *words.pop("sets", ())), recipe, tmp_path / "run", **words)
    assert not (tmp_path / "run").exists()
