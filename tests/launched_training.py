"""One process of some trainings of the tiny model, alone or under torchrun: `launched_training.py POLICY FOLDER TASK…`.

TRL seeds every process's draws apart, so no two launches of it draw alike: here what GRPO and RLOO learn from is fixed
instead, by the prompt, by which of its answers it is, and by the step.
"""

from __future__ import annotations

import json
import os
import random
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from fsdp_on_cpu import in_parts, with_fsdp
from training_tasks import REWARDED, TASKS
from transformers import GenerationMixin

from constitutional.processes import end_groups, leads, rank
from constitutional.training.checkpoints import Checkpoints

calls = 0


class Interrupted(Exception):
    """Stops every process at the same step."""


def fixed(net: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, **_: Any) -> torch.Tensor:
    """Six tokens after each prompt."""
    global calls
    calls += 1
    seen: Counter[tuple[int, ...]] = Counter()
    answers = []
    for row, mask in zip(input_ids.tolist(), attention_mask.tolist(), strict=True):
        prompt = tuple(token for token, kept in zip(row, mask, strict=True) if kept)
        draw = random.Random(f"{prompt} {seen[prompt]} {calls}")
        answers.append([draw.randrange(4, 260) for _ in range(6)])
        seen[prompt] += 1
    return torch.cat([input_ids, torch.tensor(answers)], 1)


def run(task: str, policy: Path, folder: Path, stop_at: int = 0, every: int | None = None) -> None:
    global calls
    calls = 0
    logs: list[dict[str, Any]] = []
    rewards: list[str] = []

    def log(entry: dict[str, Any]) -> None:
        logs.append(entry)
        if stop_at and entry["step"] == stop_at:
            raise Interrupted

    common: dict[str, Any] = {"output": folder / "model", "on_log": log}
    common["checkpoints"] = Checkpoints(folder / "checkpoints", every)
    if task in REWARDED:
        common["on_reward"] = lambda rows: rewards.extend(row.to_json() for row in rows)
    heard: list[str] = []
    if task == "rloo_watched":
        common["hear"] = lambda records: heard.extend(record.to_json() for record in records)
    result = TASKS[task](policy, **common)
    (folder / f"heard-{rank()}.json").write_text(json.dumps(heard))
    if leads():
        told = {"result": result.to_json(), "logs": logs, "rewards": rewards, "in_parts": in_parts()}
        (folder / "told.json").write_text(json.dumps(told))


def main(policy: Path, root: Path, tasks: list[str]) -> None:
    torch.set_num_threads(1)
    GenerationMixin.generate = fixed
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        with_fsdp()
    for task in tasks:
        name, _, stopped = task.partition("@")
        if stopped:
            with suppress(Interrupted):
                run(name, policy, root / task, int(stopped), every=2)
        run(name, policy, root / task)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
    end_groups()
