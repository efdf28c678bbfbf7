"""`--shard i/n`: a run that makes every n-th chunk of its first unfinished stage and stops.

For clusters without Ray: each machine has its own copy of the run folder, and `constitutional merge` brings the chunks
together. What a stage reads must have been finished once, in the folder that was copied, and not once a machine.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated

from pydantic import Field

from constitutional.display import Display
from constitutional.errors import ConfigError, RunError, ShardDone
from constitutional.pipeline.inputs import Inputs
from constitutional.records import Record
from constitutional.runs import RunFolder, StageResult, write_atomic
from constitutional.runs.engine import Chunks, Here, Made, StageName

NOTE = "shard.json"


class Shard(Record):
    """Which part of a stage a run folder holds; stands in its shard.json."""

    index: int
    of: int
    stage: Annotated[str, Field(pattern=r"^(\d\d-[a-z0-9_-]+/[0-9a-f]{16})?$")] = ""
    """The stage's folder, `NN-STAGE/KEY`."""
    chunks: int = 0


def parse_shard(text: str) -> Shard:
    """`i/n`, i from 0.

    Raises:
        ConfigError: something else.
    """
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if found is None or int(found[1]) >= int(found[2]):
        raise ConfigError(f"--shard {text}: expected i/n with i from 0 to n-1, such as 0/4")
    return Shard(index=int(found[1]), of=int(found[2]))


class ShardEngine:
    """Implements `constitutional.runs.engine.Engine`."""

    def __init__(self, shard: Shard, folder: RunFolder) -> None:
        self._shard, self._folder, self._number = shard, folder, 0
        self._finished: set[str] = set()
        """Keys of stages that this folder finishes itself."""

    def enter(self, step: str, number: int, done: Mapping[str, StageResult]) -> None:
        """A step begins."""
        self._number = number

    def train(self, step: str) -> None:
        """A training that is not finished begins.

        Raises:
            RunError: always: it is not done in chunks.
        """
        raise RunError(f"{step}: training is not done in chunks: run it in the merged folder, without --shard")

    def make(self, stage: StageName, chunks: Chunks, missing: Sequence[int]) -> Iterator[tuple[int, Made]]:
        """Makes the shard's own chunks. A stage of which none is missing is finished, and the next one is begun.

        Raises:
            ShardDone: they are made.
            RunError: the stage reads one that every shard would finish for itself.
        """
        if chunks.here or not missing:
            self._finished.add(stage.key)
            yield from Here().make(stage, chunks, missing)
            return
        if not self._finished.isdisjoint(stage.reads):
            raise RunError(
                f"{stage.name}: reads a step that only the run folder may finish: give the command of the step before "
                "there, without --shard, and copy the folder to the shards anew"
            )
        shard, count = self._shard, len(chunks)
        place = f"{self._number:02d}-{stage.name}/{stage.key}"
        note = shard.model_copy(update={"stage": place, "chunks": count})
        write_atomic(self._folder.path / NOTE, note.to_json() + "\n")
        mine = range(shard.index, count, shard.of)
        yield from Here().make(stage, chunks, [index for index in missing if index in mine])
        raise ShardDone(
            f"{stage.name}: {len(mine)} of {count} chunks are in {self._folder.path} (shard {shard.index}/{shard.of}). "
            "When all shards are done: constitutional merge RUN SHARD..."
        )


@contextmanager
def open_shard(shard: Shard, inputs: Inputs, folder: RunFolder, display: Display) -> Iterator[ShardEngine]:
    """The engine of one run."""
    yield ShardEngine(shard, folder)
