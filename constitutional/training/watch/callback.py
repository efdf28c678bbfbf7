"""The watch over a run of TRL's trainers, as a callback: they log every step and obey `should_training_stop`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from constitutional.errors import TrainingError
from constitutional.training.watch.watcher import Watcher

STATE = "watch.pt"
"""The watch's state in a checkpoint's folder."""


class WatchCallback(TrainerCallback):  # type: ignore[misc]
    """Probes before the first step, looks at every step's figures, lowers rates and ends the run."""

    def __init__(self, watcher: Watcher, resumed: Path | None = None) -> None:
        """`resumed` is the folder of the checkpoint the training goes on from."""
        self._watcher, self._resumed = watcher, resumed

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Called before the first step, or before the first one after a checkpoint."""
        if self._resumed is not None:
            load_watch(self._watcher, self._resumed)
        else:
            self._watcher.begin(model)

    def on_log(
        self,
        args: Any,
        state: Any,
        control: Any,
        logs: Mapping[str, Any] | None = None,
        model: Any = None,
        optimizer: Any = None,
        lr_scheduler: Any = None,
        **_: Any,
    ) -> None:
        """Called with the figures of every step."""
        if not logs or "loss" not in logs:
            return
        factor = self._watcher.after_step(int(state.global_step), logs, model)
        if factor != 1:
            lower(factor, optimizer, lr_scheduler)
        if self._watcher.ended:
            control.should_training_stop = True
            control.should_save = False  # nothing is to go on from here

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Called when a checkpoint was written."""
        if state.is_world_process_zero:
            save_watch(self._watcher, Path(args.output_dir) / f"checkpoint-{state.global_step}")


def lower(factor: float, optimizer: Any, scheduler: Any = None) -> None:
    """Multiplies every learning rate, and those a scheduler starts from, so that it stays lower."""
    for group in optimizer.param_groups:
        group["lr"] *= factor
        if "initial_lr" in group:
            group["initial_lr"] *= factor
    if scheduler is not None:
        scheduler = getattr(scheduler, "scheduler", scheduler)  # accelerate's wrapper
        scheduler.base_lrs = [rate * factor for rate in scheduler.base_lrs]
        scheduler._last_lr = [rate * factor for rate in scheduler.get_last_lr()]  # what the trainer logs


def save_watch(watcher: Watcher, folder: Path) -> None:
    """Adds the watch's state to a checkpoint."""
    torch.save(watcher.state_dict(), folder / STATE)


def load_watch(watcher: Watcher, folder: Path) -> None:
    """Goes on from a checkpoint.

    Raises:
        TrainingError: the run it is of was not watched.
    """
    path = folder / STATE
    if not path.exists():
        raise TrainingError(f"{folder}: a checkpoint of a run that was not watched: remove it to begin anew")
    watcher.load_state_dict(torch.load(path, weights_only=True))
