"""Trainings that are killed: `python killed_training.py FOLDER TASK=POINT,POINT… …`, one JSON line for each attempt.

Libraries are imported once; every attempt is a fork that kills itself (SIGKILL) at a named point, or is killed from
outside after a number of seconds. After the last point the training is run to its end, and beside it once as a whole.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from tiny_model import save_tiny_model
from training_recipe import training_recipe, write_training_recipe
from training_tasks import REWARDED, TASKS

from constitutional.backends.cpu import prepare_process
from constitutional.pipeline import run_recipe
from constitutional.runs import RunFolder
from constitutional.training import checkpoints, session
from constitutional.training.checkpoints import Checkpoints
from constitutional.training.ppo import stage

EVERY = 2


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(point: str) -> int:
    """Puts the kill in place; gives the step to die at, where it is one."""
    what, _, number = point.partition(":")
    count = int(number or 1)

    def on_call(owner: Any, name: str, before: bool) -> None:
        theirs, calls = getattr(owner, name), 0

        def called(*words: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == count and before:
                die()
            found = theirs(*words, **named)
            if calls == count:
                die()
            return found

        setattr(owner, name, called)

    def cut(owner: Any, name: str, file_of: str) -> None:
        """Dies when half of a file of a checkpoint is written."""
        theirs, calls = getattr(owner, name), 0

        def called(content: Any, file: Any, *words: Any, **named: Any) -> Any:
            nonlocal calls
            found = theirs(content, file, *words, **named)
            mine = file_of in str(file)
            calls += mine
            if mine and calls == count:
                os.truncate(file, Path(file).stat().st_size // 2)
                die()
            return found

        setattr(owner, name, called)

    match what:
        case "optimiser":
            cut(torch, "save", "optimizer")
        case "weights":
            cut(safetensors.torch, "serialize_file", "checkpoint-")
        case "marker":  # all is written but the marker
            on_call(checkpoints, "write_atomic", before=True)
        case "moved":  # in its place, the one before not yet removed
            on_call(checkpoints, "sync_folder", before=False)
        case "found":  # resumed, and nothing done yet
            for owner in (session, stage):
                on_call(owner, "newest", before=False)
        case "saved":  # the model is written, but not yet under its name
            for owner in (session, stage):
                on_call(owner, "save_merged", before=False)
    return count if what == "step" else 0


def run(recipe: Path, folder: Path, point: str) -> None:
    """The recipe; the point is a stage and the step it logs when it dies."""
    stage, _, step = point.partition(":")
    theirs = RunFolder.metric

    def metric(self: RunFolder, **fields: Any) -> None:
        theirs(self, **fields)
        if (fields["stage"], str(fields["step"])) == (stage, step):
            die()

    RunFolder.metric = metric  # type: ignore[method-assign]
    run_recipe(training_recipe(recipe), recipe, folder / "run")


def attempt(task: str, policy: Path, folder: Path, every: int | None, last: int) -> None:
    logs: list[dict[str, Any]] = []
    rewards: list[str] = []

    def log(entry: dict[str, Any]) -> None:
        logs.append(entry)
        if last and entry["step"] == last and "loss" in entry:
            die()

    common: dict[str, Any] = {"on_log": log, "output": folder / "model"}
    common["checkpoints"] = Checkpoints(folder / "checkpoints", every)
    if task in REWARDED:
        common["on_reward"] = lambda rows: rewards.extend(row.to_json() for row in rows)
    result = TASKS[task](policy, **common)
    told = {"result": result.to_json(), "rewards": rewards, "logs": logs}
    (folder / "told.json").write_text(json.dumps(told))


def forked(task: str, policy: Path, folder: Path, point: str, every: int | None = EVERY) -> None:
    folder.mkdir(exist_ok=True)
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)
            if task == "recipe":
                run(policy.parent / "in" / "recipe.yaml", folder, point)
            else:
                attempt(task, policy, folder, every, arm(point))
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    if point.startswith("after:"):
        time.sleep(float(point.removeprefix("after:")))
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    kept = sorted(path.relative_to(folder).as_posix() for path in folder.glob("checkpoints/**/step-*"))
    told = {
        "task": task,
        "point": point,
        "folder": folder.name,
        "killed": os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL,
        "code": os.waitstatus_to_exitcode(status),
        "seconds": time.monotonic() - began,
        "kept": kept,
        "model": (folder / "model").exists(),
    }
    print(json.dumps(told), flush=True)


def main(root: Path, asked: list[str]) -> None:
    prepare_process()  # tries the processor out, once
    policy = save_tiny_model(root / "policy")
    write_training_recipe(root / "in")
    for one in asked:
        task, _, points = one.partition("=")
        forked(task, policy, root / f"{task}-whole", "", every=None)
        for point in [*points.split(","), ""]:
            forked(task, policy, root / task, point)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
