"""The run folder: one process at a time, stages that are finished or not, logs, and where everything lies.

    NAME/  run.yaml  lock.json  events.jsonl  metrics.jsonl  stages/NN-STAGE/KEY/  ledger.sqlite  models/  evaluation/
           report.html

To read a finished run no lock is needed: `load_result`, `read_log`.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import filelock

from constitutional.atomic import atomic_file, cannot_write, write_atomic
from constitutional.errors import RunError
from constitutional.processes import leads
from constitutional.runs.engine import Engine, Here
from constitutional.runs.logs import append_line, drop_lines, read_log
from constitutional.runs.manifest import InputStamp, Manifest, StageResult, load_result, now
from constitutional.runs.stage import Stage, Take

__all__ = [
    "InputStamp",
    "Manifest",
    "RunFolder",
    "Stage",
    "StageResult",
    "atomic_file",
    "follow_run",
    "holder",
    "load_result",
    "open_run",
    "read_log",
    "read_run",
    "write_atomic",
]

_HOLDER = ".holder.json"
_PATIENCE = 0.5  # seconds a refused process waits for the holder to have written its name
_held: set[Path] = set()
"""The folders this process holds: a loop holds the store while it runs rounds in folders of it. Who opens such a folder
first holds the store, and must be the last to close."""


def open_run(path: Path) -> RunFolder:
    """Creates the folder when absent and locks it for this process until `close`, or until the process dies.

    A folder that shares the stages of a store (`pipeline.shared`) is held with that store: two processes in two such
    folders would remove each other's stages.

    Raises:
        RunError: another process holds the folder (within a second, naming its pid, host and start), or it cannot be
            written.
    """
    with ExitStack() as stack:
        try:
            for folder in ("stages", "models", "evaluation"):
                (path / folder).mkdir(parents=True, exist_ok=True)
            store = _store(path)
            if store is not None and store not in _held:
                stack.enter_context(_holding(store))
            stack.enter_context(_holding(path))
        except OSError as error:
            raise cannot_write(path, error) from error
        held = stack.pop_all()
    return RunFolder(path, held)


def follow_run(path: Path) -> RunFolder:
    """A run folder that the leading process of this launch holds; this one writes nothing to it."""
    return RunFolder(path, None)


def read_run(path: Path, take: Take) -> RunFolder:
    """The folder of a run that another process holds, to make chunks of it: nothing can be written through it.

    Args:
        path: an existing run folder.
        take: is given the work of the first unfinished stage, and must not return.
    """
    return RunFolder(path, None, take)


class RunFolder:
    """A run folder, held by this process unless it came from `read_run`; a context manager."""

    def __init__(self, path: Path, held: ExitStack | None, take: Take | None = None) -> None:
        self.path = path
        self.engine: Engine = Here()
        """What makes the chunks of its stages."""
        self._held, self._take = held, take

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Gives the folder free."""
        if self._held is not None:
            self._held.close()

    @property
    def ledger_path(self) -> Path:
        """Where the run's judgments are."""
        return self.path / "ledger.sqlite"

    def stage(
        self, number: int, name: str, key_parts: Mapping[str, object], inputs: Mapping[str, StageResult] | None = None
    ) -> Stage:
        """The stage `number`-`name` under these settings and inputs, whatever its state.

        Args:
            number: its place in the recipe; part of the folder's name, not of the key.
            name: small letters, digits, `-` and `_`.
            key_parts: every setting, digest and seed the result depends on, as JSON values.
            inputs: the results it reads, by the name of their role.

        Raises:
            RunError: `name` cannot name a folder.
        """
        return Stage(self.path / "stages", number, name, key_parts, inputs or {}, self.engine, self._take)

    def event(self, kind: str, **fields: object) -> None:
        """Adds a line to events.jsonl: what happened, and when.

        Raises:
            RunError: the line cannot be written.
        """
        if leads():
            append_line(self.path / "events.jsonl", {**fields, "time": now(), "kind": kind})

    def metric(self, **fields: object) -> None:
        """Adds a line to metrics.jsonl; a NaN is written as the string "nan". Raises as `event` does."""
        if leads():
            append_line(self.path / "metrics.jsonl", {**fields, "time": now()})

    def forget_metrics(self, stage: str, key: str, step: int) -> None:
        """Takes out of metrics.jsonl what an interrupted training logged from a step on, which is done again now.

        Raises:
            RunError: the log is damaged or cannot be written.
        """

        def redone(row: Mapping[str, object]) -> bool:
            logged = row.get("step")
            return (row.get("stage"), row.get("key")) == (stage, key) and isinstance(logged, int) and logged >= step

        if leads():
            drop_lines(self.path / "metrics.jsonl", redone)


def _store(path: Path) -> Path | None:
    """The folder whose stages and ledger a run folder shares by links; None of one that has its own."""
    stages, ledger = ((path / name).resolve().parent for name in ("stages", "ledger.sqlite"))
    return stages if stages == ledger != path.resolve() else None


@contextmanager
def _holding(path: Path) -> Iterator[None]:
    """Holds a folder for this process and says so in it."""
    lock, place = _lock(path), path.resolve()
    try:
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": now()}
        write_atomic(path / _HOLDER, json.dumps(holder) + "\n")
        _held.add(place)
        try:
            yield
        finally:
            (path / _HOLDER).unlink(missing_ok=True)
    finally:
        _held.discard(place)
        lock.release()


def _lock(path: Path) -> filelock.BaseFileLock:
    """Takes the lock or says who has it. The kernel frees it when the holder dies, however it dies."""
    lock = filelock.FileLock(path / ".lock", is_singleton=False)
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            lock.acquire(timeout=0)
            return lock
        except filelock.Timeout as error:
            who = holder(path)
            if who is None and time.monotonic() < deadline:
                time.sleep(0.02)
                continue
            raise RunError(f"run folder {path} is in use by {who or 'a process that left no name'}") from error


def holder(path: Path) -> str | None:
    """Who says to hold the folder; None when nobody does, or when it is a process of this host that is dead."""
    import psutil

    try:
        note = json.loads((path / _HOLDER).read_bytes())
        pid, host, since = int(note["pid"]), str(note["host"]), str(note["since"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if host == socket.gethostname() and not psutil.pid_exists(pid):
        return None
    return f"pid {pid} on host {host} since {since}"
