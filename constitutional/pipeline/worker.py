"""A process that makes chunks of a run it does not hold: it opens the same recipe and calls the same step function.

What travels to it is the place of a chunk and what the ledger has on it; what travels back are records. It writes no
file.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from constitutional.backends.memory import release_memory
from constitutional.display import Silent
from constitutional.errors import ConfigError, RunError
from constitutional.ledger import scratch_ledger
from constitutional.pipeline import STEPS
from constitutional.pipeline.context import Context
from constitutional.pipeline.inputs import load_inputs
from constitutional.records import Judgment, Prompt
from constitutional.runs import StageResult, load_result, read_run
from constitutional.runs.engine import Chunks, Made, StageName
from constitutional.runs.manifest import git_commit, package_versions
from constitutional.settings import Recipe

PATIENCE = 30.0
"""Seconds for which a finished stage may not be seen yet: file systems of clusters look again only after a while."""


@dataclass(frozen=True)
class Work:
    """The run that chunks are made of. Paths are absolute, and lead to the same files on every node."""

    recipe: Recipe
    recipe_file: Path
    run_folder: Path
    prompts: tuple[Prompt, ...]
    directory: Path
    """The working directory: paths of a recipe may lead from there."""


@dataclass(frozen=True)
class Task:
    """One chunk."""

    step: str
    number: int
    done: Mapping[str, str]
    """Folders of the results that the step may read, relative to the run's, by step."""
    stage: StageName
    index: int
    known: tuple[Judgment, ...] = ()
    """The ledger's judgments on its items."""


@dataclass(frozen=True)
class Ready:
    """What a worker says of itself."""

    host: str
    pid: int
    versions: Mapping[str, str | None]
    """Of the packages that decide results, and the commit of our own."""


class Worker:
    """Makes chunks; models are opened at the first chunk that needs them and kept to the end of the stage."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._stage: StageName | None = None
        self._chunks: Chunks | None = None

    def ready(self) -> Ready:
        """Loads what the recipe names.

        Raises:
            ConstitutionalError: any of it is not to be had on this machine.
        """
        work = self._work
        where = f"worker on {socket.gethostname()}"
        for path, what in ((work.directory, "working directory"), (work.run_folder, "run folder")):
            if not path.is_dir():
                raise ConfigError(f"{where}: no {what} {path}: every node needs the same files at the same place")
        os.chdir(work.directory)
        self._inputs = replace(load_inputs(work.recipe, work.recipe_file), prompts=work.prompts)
        return Ready(socket.gethostname(), os.getpid(), {**package_versions(), "git": git_commit()})

    def make(self, task: Task) -> Made:
        """Makes one chunk.

        Raises:
            ConstitutionalError: as in a run; or what this machine has is not what the run was begun with.
        """
        if self._stage != task.stage:
            self._stage = self._chunks = None  # lets go of the models of the stage before
            release_memory()
            self._ledger = scratch_ledger()
            self._chunks = self._open(task)
            self._stage = task.stage
        self._ledger.append(task.known)
        assert self._chunks is not None
        return self._chunks.make(task.index)

    def _open(self, task: Task) -> Chunks:
        """The work of a stage, taken from its step where that would begin it."""
        until = time.monotonic() + PATIENCE
        while True:
            taken: list[tuple[StageName, Chunks]] = []

            def take(stage: StageName, chunks: Chunks, taken: list[tuple[StageName, Chunks]] = taken) -> None:
                taken.append((stage, chunks))
                raise _Taken

            done = self._done(task)
            if done is not None:
                folder = read_run(self._work.run_folder, take)
                context = Context(
                    **self._inputs.__dict__, folder=folder, ledger=self._ledger, display=Silent(), keeps_calls=False
                )
                try:
                    STEPS[task.step](context, done, task.number)
                except _Taken:
                    ((stage, chunks),) = taken
                    if stage == task.stage:
                        return chunks
                    if stage.name == task.stage.name:
                        raise RunError(
                            f"{stage.name}: worker on {socket.gethostname()} would make another stage ({stage.key}, not"
                            f" {task.stage.key}): its files, models, kind of machine or packages are not the run's"
                        ) from None
            if time.monotonic() > until:
                raise RunError(
                    f"{task.stage.name}: worker on {socket.gethostname()} does not see the finished steps in "
                    f"{self._work.run_folder}: every node needs the run folder"
                )
            time.sleep(0.5)

    def _done(self, task: Task) -> dict[str, StageResult] | None:
        found = {step: load_result(self._work.run_folder / place) for step, place in task.done.items()}
        known = {step: result for step, result in found.items() if result is not None}
        return known if len(known) == len(found) else None


class _Taken(BaseException):
    """The work is taken, the step is left."""
