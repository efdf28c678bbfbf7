"""What PPO keeps of a run in a checkpoint, beside weights, optimiser and random streams, which `accelerate` writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from constitutional.atomic import write_atomic
from constitutional.processes import leads
from constitutional.training.checkpoints import Checkpoint, Checkpoints, keep
from constitutional.training.guards import StepWatch, require_finite
from constitutional.training.resuming import REWARDS, quiet, restore_rewards, write_rewards
from constitutional.training.rewards import Rewards
from constitutional.training.watch.callback import load_watch, save_watch
from constitutional.training.watch.watcher import Watcher

_STATE = "ppo.json"


def keep_progress(
    accelerator: Any,
    model: Any,
    folder: Path,
    checkpoints: Checkpoints,
    *,
    step: int,
    kl: float,
    order: torch.Generator,
    watch: StepWatch,
    reward: Rewards,
    watcher: Watcher | None,
) -> None:
    """Writes a checkpoint.

    Args:
        accelerator: holds model and optimiser.
        model: must be sound.
        folder: to write in, on the file system of `checkpoints`.
        checkpoints: where it goes.
        step: that is done.
        kl: coefficient of the next step.
        order: stream of the order of rollouts.
        watch: with the figures so far.
        reward: with the rewards so far.
        watcher: with what it has seen so far.

    Raises:
        TrainingError: a weight is not finite; the checkpoint before stands.
        RunError: it cannot be written.
    """
    require_finite(model, step)
    written = folder / f"checkpoint-{step}"
    with quiet("accelerate.utils.other"):
        accelerator.save_state(str(written))
    if leads():
        state = {"kl": kl, "order": bytes(order.get_state().tolist()).hex(), "history": watch.history}
        write_atomic(written / _STATE, json.dumps(state) + "\n")
        write_rewards(written / REWARDS, reward)
        if watcher is not None:
            save_watch(watcher, written)
    keep(written, checkpoints, step)


def restore_progress(
    accelerator: Any,
    found: Checkpoint,
    *,
    order: torch.Generator,
    watch: StepWatch,
    reward: Rewards,
    watcher: Watcher | None,
) -> float:
    """Goes back to a checkpoint; gives the KL coefficient of the next step."""
    accelerator.load_state(str(found.folder))
    state = json.loads((found.folder / _STATE).read_bytes())
    order.set_state(torch.frombuffer(bytearray.fromhex(state["order"]), dtype=torch.uint8))
    watch.history = state["history"]
    restore_rewards(found.folder / REWARDS, reward)
    if watcher is not None:
        load_watch(watcher, found.folder)
    return float(state["kl"])
