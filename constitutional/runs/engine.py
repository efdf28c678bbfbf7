"""Where the chunks of a stage are made: here, one after another, or by processes that hand their records back.

A stage knows which of its chunks are missing; an engine makes them, and gives them back in the order it was asked for
them. Only the process that holds the run folder writes to it. Nothing an engine does shows in a stage's key or bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from constitutional.errors import PendingError
from constitutional.records import Judgment, Record
from constitutional.runs.manifest import StageResult


class StageName(NamedTuple):
    """Which stage, under which settings and inputs."""

    name: str
    key: str
    reads: tuple[str, ...]
    """Keys of the results it is made from."""


@dataclass(frozen=True)
class Made:
    """What came of one chunk."""

    records: tuple[Record, ...]
    """Records and failures, in order."""
    kept: Mapping[str, str]
    """Files that belong to it, by name: what the chunk said besides."""


@dataclass(frozen=True)
class Chunks:
    """The work of a stage, cut by input order."""

    items: Sequence[Any]
    work: Callable[[Any, int], Iterable[Record]]
    size: int
    known: Callable[[Any], list[Judgment]] | None = None
    """The judgments that the run has on a chunk's items: what who makes it elsewhere must be told."""
    here: bool = False
    """Not worth handing to another process: no model is asked."""
    kept: dict[str, str] = field(default_factory=dict)
    """The files of the chunk that is being made."""

    def __len__(self) -> int:
        return -(-len(self.items) // self.size)

    def of(self, index: int) -> Sequence[Any]:
        """The items of a chunk."""
        return self.items[index * self.size : (index + 1) * self.size]

    def make(self, index: int) -> Made:
        """Does the work of a chunk, here and now."""
        self.kept.clear()
        records = tuple(self.work(self.of(index), index))
        return Made(records, dict(self.kept))


class Engine(Protocol):
    """What makes missing chunks."""

    def enter(self, step: str, number: int, done: Mapping[str, StageResult]) -> None:
        """A step of the recipe begins: its name and place, and the results it may read."""
        ...

    def train(self, step: str) -> None:
        """A training begins, in this process; one that is finished does not."""
        ...

    def make(self, stage: StageName, chunks: Chunks, missing: Sequence[int]) -> Iterator[tuple[int, Made]]:
        """Makes chunks and gives them with their indices, in the order of `missing`."""
        ...


class Here:
    """The engine that is this process."""

    def enter(self, step: str, number: int, done: Mapping[str, StageResult]) -> None:
        """Nothing."""

    def train(self, step: str) -> None:
        """Nothing."""

    def make(self, stage: StageName, chunks: Chunks, missing: Sequence[int]) -> Iterator[tuple[int, Made]]:
        """One after another.

        Raises:
            PendingError: chunks wait for calls in batch files; the others are made.
        """
        pending: PendingError | None = None
        for index in missing:
            try:
                made = chunks.make(index)
            except PendingError as error:  # the other chunks may have calls to note, too
                pending = error
                continue
            yield index, made
        if pending is not None:
            raise pending
