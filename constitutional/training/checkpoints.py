"""Checkpoints of a training: what a killed run goes on from.

A checkpoint is written beside the model that is being made, made durable, marked, and only then moved into its folder
by one rename; the older one is removed after that. So a kill anywhere leaves a whole newest checkpoint or none, and
never more than two on the disk.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import Field, ValidationError

from constitutional.atomic import cannot_write, sync_folder, write_atomic
from constitutional.errors import TrainingError
from constitutional.processes import leads, processes, wait_for_all
from constitutional.records import Record

MARKER = "complete.json"
_MEMBER = "trained.json"
Told = TypeVar("Told", bound=Record)


@dataclass(frozen=True)
class Checkpoints:
    """Where a training keeps its state, and after how many steps; None writes none, and reads one that is there."""

    folder: Path
    every: int | None

    def under(self, name: str) -> Checkpoints:
        """Those of a part of the training."""
        return Checkpoints(self.folder / name, self.every)

    def due(self, step: int, steps: int, window: int = 1) -> bool:
        """Whether to write one after a step: after the last one the model itself is written.

        Args:
            step: steps done.
            steps: of the whole training.
            window: only multiples of it are points to go on from.
        """
        return self.every is not None and step < steps and step % (-(-self.every // window) * window) == 0


class Marker(Record):
    """The last file of a checkpoint: without it there is none."""

    step: Annotated[int, Field(ge=1)]
    processes: Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint: its folder, and after which step it was written."""

    folder: Path
    step: int


def newest(checkpoints: Checkpoints | None) -> Checkpoint | None:
    """The newest whole checkpoint, if there is one.

    Raises:
        TrainingError: it was written by another number of processes, each of which kept a state of its own.
    """
    found = _whole(checkpoints.folder) if checkpoints is not None else []
    if not found:
        return None
    marker, folder = max(found, key=lambda one: one[0].step)
    if marker.processes != processes():
        raise TrainingError(
            f"{folder} was written by {marker.processes} processes and this is a launch of {processes()}: launch as "
            "many again, or remove that folder to begin anew"
        )
    return Checkpoint(folder, marker.step)


def keep(written: Path, checkpoints: Checkpoints, step: int) -> None:
    """Makes a folder the newest checkpoint, and removes the others. Every process calls it; the leading one works.

    Args:
        written: the folder, on the same file system; it is moved.
        checkpoints: where to.
        step: after which it was written.

    Raises:
        RunError: it cannot be written; the one before still stands.
    """
    wait_for_all()
    if leads():
        target = checkpoints.folder / f"step-{step}"
        try:
            checkpoints.folder.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(target, ignore_errors=True)  # without a marker: else the training would be past it
            for file in written.rglob("*"):
                _sync(file)
            write_atomic(written / MARKER, Marker(step=step, processes=processes()).to_json() + "\n")
            written.rename(target)
            sync_folder(checkpoints.folder)
        except OSError as error:
            raise cannot_write(checkpoints.folder, error) from error
        for other in checkpoints.folder.glob("step-*"):
            if other != target:
                shutil.rmtree(other, ignore_errors=True)
    wait_for_all()


def keep_member(checkpoints: Checkpoints | None, saved: Path, told: Record, steps: int) -> None:
    """Keeps the finished model of one of several trainings in a row until all are; a short one is not worth it."""
    if checkpoints is None or checkpoints.every is None or steps < checkpoints.every:
        return
    copy = saved.with_name(f".{saved.name}.kept")
    if leads():
        try:
            shutil.copytree(saved, copy)
        except OSError as error:
            raise cannot_write(copy, error) from error
        write_atomic(copy / _MEMBER, told.to_json() + "\n")
    keep(copy, checkpoints, steps)


def finished_member(checkpoints: Checkpoints | None, output: Path, record: type[Told]) -> Told | None:
    """What `keep_member` was told, where it kept a model, which is put back to `output`."""
    found = newest(checkpoints)
    if found is None or not (found.folder / _MEMBER).exists():
        return None
    if leads():
        shutil.copytree(found.folder, output, dirs_exist_ok=True, ignore=shutil.ignore_patterns(MARKER, _MEMBER))
    wait_for_all()
    return record.model_validate_json((found.folder / _MEMBER).read_bytes())


def _whole(folder: Path) -> list[tuple[Marker, Path]]:
    found = []
    for marker in folder.glob(f"step-*/{MARKER}"):
        try:
            found.append((Marker.model_validate_json(marker.read_bytes()), marker.parent))
        except (OSError, ValidationError):  # being removed
            continue
    return found


def _sync(file: Path) -> None:
    if file.is_file() and os.name == "posix":
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
