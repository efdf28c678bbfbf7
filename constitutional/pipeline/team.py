"""A recipe under a launcher: the leading process runs it, and the others join it in the trainings.

Between trainings the others wait for its call, for hours if data steps take hours: on a group of its own, as the time
limit of the trainings' own is one of minutes, and on sockets, which cost nothing to wait on.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from constitutional.errors import ConfigError, RunError, TrainingError
from constitutional.processes import leads, patient_group, processes, rank
from constitutional.runs import RunFolder, StageResult, load_result

FILES_PATIENCE = 30.0
"""Seconds until a file that another process wrote must show."""


@dataclass(frozen=True)
class Call:
    """A training to join: its step, the step's number, and the folders of the results it reads, by step."""

    step: str
    number: int
    places: dict[str, str]


class Team:
    """The processes of a launch."""

    def __init__(self, group: Any) -> None:
        self._group = group

    def call(self, folder: RunFolder, step: str, number: int, done: dict[str, StageResult]) -> None:
        """The leading process calls the others to a training; they are there already."""
        if leads():
            places = {name: result.folder.relative_to(folder.path).as_posix() for name, result in done.items()}
            self._tell(Call(step, number, places))

    def dismiss(self) -> None:
        """Lets the others go. Not after an error: they may be anywhere then, and the launcher ends them."""
        self._tell(None)

    def listen(self) -> Call | None:
        """The next training, when it begins; None when there is none any more.

        Raises:
            TrainingError: the leading process has ended without a word.
        """
        try:
            return self._tell(None)
        except RuntimeError as error:
            raise TrainingError("the leading process is gone") from error

    def _tell(self, call: Call | None) -> Call | None:
        """What the leading process says to all."""
        import torch

        said = [call]
        torch.distributed.broadcast_object_list(said, src=0, group=self._group, device=torch.device("cpu"))
        return said[0]


def open_team(budget: float | None) -> Team | None:
    """The processes of this launch; None without a launcher.

    Raises:
        ConfigError: a budget is set, which only one process could keep to.
    """
    if processes() == 1:
        return None
    if budget is not None:
        raise ConfigError("--budget: several processes cannot share one: run the steps that call servers without them")
    return Team(patient_group())


def refuse_several(what: str) -> None:
    """Refuses several processes.

    Raises:
        ConfigError: there are several.
    """
    if processes() > 1:
        raise ConfigError(f"{what}: one process only, as yet: several can share out a recipe without them")


@contextmanager
def leading(team: Team | None) -> Iterator[None]:
    """Around the work of the leading process: when it is done the others are let go."""
    yield
    if team is not None:
        team.dismiss()


def results(run: Path, call: Call) -> dict[str, StageResult]:
    """The results that a training reads.

    Raises:
        RunError: one does not show on this process's disk.
    """
    until = time.monotonic() + FILES_PATIENCE
    while True:  # a disk of a cluster may show them late
        found = {name: load_result(run / place) for name, place in call.places.items()}
        known = {name: result for name, result in found.items() if result is not None}
        if len(known) == len(found):
            return known
        if time.monotonic() > until:
            absent = next(name for name in found if name not in known)
            raise RunError(f"{run}: process {rank()} does not see the finished step '{absent}'")
        time.sleep(0.5)
