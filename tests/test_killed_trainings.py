"""Trainings under kill -9, half of the kills inside the saving of a checkpoint: they go on from the newest whole one.

One process imports the libraries, and every attempt is a fork of it (`killed_training.py`). `TRAINING_KILLS=60` kills
that many more, at times drawn at random.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HARNESS = Path(__file__).with_name("killed_training.py")
POINTS = {
    "sft": ("optimiser:1", "step:5", "weights:1", "saved"),
    "sft_lora": ("weights:4", "step:9"),  # resumed between epochs, then within the epoch that began so
    "ensemble": ("marker:1", "step:12"),
    "dpo": ("optimiser:2", "step:5"),
    "grpo": ("step:3", "marker:1"),
    "ppo": ("optimiser:1", "weights:2", "found", "moved:1"),
    "rloo_watched": ("weights:2", "step:5"),
    "ppo_watched": ("weights:2", "step:5"),
    "recipe": ("pm:3", "rl:3"),
}
SAVING = ("optimiser", "weights", "marker")
MORE = int(os.environ.get("TRAINING_KILLS", "0"))


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    root = tmp_path_factory.mktemp("killed")
    asked = {task: list(points) for task, points in POINTS.items()}
    for _ in range(MORE):
        task = random.choice([name for name in POINTS if name != "recipe"])
        asked[task].append(f"after:{random.random() * 3:.2f}")
    words = [f"{task}={','.join(points)}" for task, points in asked.items()]
    paths = [str(HARNESS.parents[1]), str(HARNESS.parent)]
    done = subprocess.run(
        [sys.executable, str(HARNESS), str(root), *words],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    attempts = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert all(one["code"] == 0 or one["killed"] for one in attempts), done.stderr[-3000:]
    return root, attempts


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def untimed(logs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The figures of each step; the summary at the end counts the time of the last attempt alone."""
    told = [{name: value for name, value in entry.items() if "time" not in name} for entry in logs]
    return [entry for entry in told if "loss" in entry]


@pytest.mark.slow
def test_every_kill_struck_and_half_of_them_inside_saving(killed: tuple[Path, list[dict[str, Any]]]) -> None:
    _, attempts = killed
    named = [one for one in attempts if one["point"] and not one["point"].startswith("after:")]
    assert all(one["killed"] for one in named), named
    inside = [one for one in named if one["point"].split(":")[0] in SAVING]
    assert len(named) >= 6 and 2 * len(inside) >= len([one for one in named if one["task"] != "recipe"])


@pytest.mark.slow
@pytest.mark.parametrize("task", [name for name in POINTS if name != "recipe"])
def test_a_killed_training_goes_on_bit_for_bit(killed: tuple[Path, list[dict[str, Any]]], task: str) -> None:
    root, attempts = killed
    whole, told = root / f"{task}-whole", json.loads((root / task / "told.json").read_text())
    expected = json.loads((whole / "told.json").read_text())
    assert files(root / task / "model") == files(whole / "model")
    assert (told["result"], told["rewards"]) == (expected["result"], expected["rewards"])
    figures, all_figures = untimed(told["logs"]), untimed(expected["logs"])
    assert 0 < len(figures) < len(all_figures), "it began anew instead of going on"
    assert figures == all_figures[-len(figures) :]
    mine = [one for one in attempts if one["folder"] == task]
    assert all(not one["model"] for one in mine[:-1])  # no half model under the name of a whole one
    by_part = [[path.rsplit("/", 1)[0] for path in one["kept"]] for one in mine]
    assert all(parts.count(part) <= 2 for parts in by_part for part in parts)
    assert not list((whole / "checkpoints").glob("*"))  # none was asked for


@pytest.mark.slow
def test_a_killed_recipe_doubles_no_row_and_leaves_no_checkpoint(killed: tuple[Path, list[dict[str, Any]]]) -> None:
    root, _ = killed
    run, whole = root / "recipe" / "run", root / "recipe-whole" / "run"
    left = [path for path in files(run / "stages") if not path.endswith("manifest.json")]
    assert any(path.endswith("rewards.jsonl") for path in left)
    assert left == [path for path in files(whole / "stages") if not path.endswith("manifest.json")]
    assert all(files(run / "stages")[path] == files(whole / "stages")[path] for path in left)
    steps = [(row["stage"], row["key"], row["step"], "loss" in row) for row in metrics(run)]
    assert steps == [(row["stage"], row["key"], row["step"], "loss" in row) for row in metrics(whole)]
    assert len(steps) == len(set(steps)) == 2 + 3 + 3 + 2  # sft and pm end with a summary of their own
    assert not list(run.glob("stages/*/*/checkpoints")) and not list(run.glob("stages/*/*/.*"))


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
