"""Shards of one stage brought together in a run folder: its chunks, and its judgments in the ledger in chunk order.

What servers were paid in the shards goes into the run's `calls.sqlite`, where a later `--budget` counts it.
The bytes are those of a run that made every chunk itself. Nothing is written before all shards are seen to fit; a merge
that was killed is given again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from constitutional.backends.endpoint.merged_calls import merge_calls
from constitutional.errors import RunError
from constitutional.ledger import open_ledger
from constitutional.pipeline.preflight import JUDGING
from constitutional.pipeline.shards import NOTE, Shard
from constitutional.records import Judgment
from constitutional.runs import load_result, open_run, write_atomic
from constitutional.runs.chunk_files import CHUNKS, PLAN, STARTED, chunk_file, read_plan
from constitutional.runs.logs import json_bytes, read_rows
from constitutional.runs.manifest import MANIFEST, InputStamp, finished_results, now


@dataclass(frozen=True)
class Merged:
    """What a merge brought together."""

    stage: str
    chunks: int
    judgments: int


@dataclass(frozen=True)
class _Part:
    """One shard, read."""

    path: Path
    shard: Shard
    plan: bytes
    inputs: dict[str, dict[str, str]]
    """Key and build of each result the stage reads, by name."""

    @property
    def folder(self) -> Path:
        """The stage's folder in the shard."""
        return self.path / "stages" / self.shard.stage

    def missing(self) -> list[int]:
        """Its own chunks that it has not."""
        own = range(self.shard.index, self.shard.chunks, self.shard.of)
        return [index for index in own if not chunk_file(self.folder / CHUNKS, index).exists()]


def merge_shards(run: Path, shards: Sequence[Path]) -> Merged:
    """Merges all shards of a stage.

    Args:
        run: the run folder they were copied from; made when absent, locked meanwhile.
        shards: the run folders made with `--shard`.

    Raises:
        RunError: the shards are not all there, not done, or not of the same work; or the run is another one.
        LedgerError: a question was answered otherwise in the run's ledger.
    """
    places = [path.resolve() for path in (run, *shards)]
    if len(set(places)) < len(places):
        raise RunError("merge: a folder is named twice: name the run, then each of its shards once")
    with ExitStack() as stack:
        for path in shards:
            if not (path / NOTE).is_file():
                raise RunError(f"{path}: no shard: nothing was made there with --shard")
            stack.enter_context(open_run(path))
        parts = sorted((_read(path) for path in shards), key=lambda part: part.shard.index)
        _check_whole(parts)
        folder = stack.enter_context(open_run(run))
        into = folder.path / "stages" / parts[0].shard.stage
        _check_run(run, into, parts[0])
        _begin(into, parts[0])
        usd = sum(merge_calls(run, part.path) for part in parts)
        ledger = stack.enter_context(open_ledger(folder.ledger_path))
        judging = into.parent.name.split("-")[1] in JUDGING
        count = parts[0].shard.chunks
        judgments = 0
        for part in parts:
            for file in _kept(part.folder):
                write_atomic(into / file.name, file.read_bytes())
        for index in range(count):
            source = chunk_file(parts[index % len(parts)].folder / CHUNKS, index)
            if judging:
                found = list(_judgments(source))
                ledger.append(found)
                judgments += len(found)
            write_atomic(chunk_file(into / CHUNKS, index), source.read_bytes())
        paid = {"usd": round(usd, 6)} if usd else {}
        folder.event("merged", stage=parts[0].shard.stage, shards=len(parts), chunks=count, **paid)
    return Merged(into.parent.name.split("-", 1)[1], count, judgments)


def _read(path: Path) -> _Part:
    try:
        shard = Shard.model_validate_json((path / NOTE).read_bytes())
        folder = path / "stages" / shard.stage
        inputs = json.loads((folder / STARTED).read_bytes())["inputs"]
        plan = read_plan(folder / CHUNKS)
        if plan.chunks != shard.chunks:
            raise ValueError(f"{plan.chunks} chunks planned, {shard.chunks} noted")
        return _Part(path, shard, plan.to_bytes(), inputs)
    except (OSError, ValueError, KeyError, StopIteration) as error:
        raise RunError(f"{path}: its shard cannot be read: {' '.join(str(error).split())}") from error


def _check_whole(parts: Sequence[_Part]) -> None:
    """The shards are of one stage, each once, all done."""
    first = parts[0]
    for part in parts[1:]:
        same = {
            f"stage and settings ({first.shard.stage}, {part.shard.stage})": first.shard.stage == part.shard.stage,
            f"number of shards ({first.shard.of}, {part.shard.of})": first.shard.of == part.shard.of,
            "cut into chunks": first.plan == part.plan,
            "builds of what the stage reads (copy the run folder anew to each)": first.inputs == part.inputs,
        }
        for what, equal in same.items():
            if not equal:
                raise RunError(f"merge: {first.path} and {part.path} differ in their {what}")
    indices = [part.shard.index for part in parts]
    if len(set(indices)) < len(indices):
        raise RunError(f"merge: two of the folders are shard {max(indices, key=indices.count)}/{first.shard.of}")
    if absent := sorted(set(range(first.shard.of)) - set(indices)):
        raise RunError(f"merge: shard {absent[0]}/{first.shard.of} is not among the folders ({len(absent)} missing)")
    for part in parts:
        if left := part.missing():
            raise RunError(
                f"{part.path}: shard {part.shard.index}/{part.shard.of} is not done: chunk {left[0]} is missing "
                f"({len(left)} in all): give its command again"
            )


def _check_run(run: Path, into: Path, part: _Part) -> None:
    """The run has what the shards read, and nothing else in this stage."""
    there = load_result(into)
    if there is not None and _stamps(there.manifest.inputs) == part.inputs:
        raise RunError(f"{run}: {part.shard.stage} is finished there already")
    built = {result.manifest.built for result in finished_results(run)}
    for name, stamp in part.inputs.items():
        if stamp["built"] not in built:
            raise RunError(f"{run}: not the run the shards were copied from: it has not the '{name}' that they read")


def _begin(into: Path, part: _Part) -> None:
    """The stage's folder as an interrupted attempt of this very work."""
    if not _goes_on(into, part):  # finished or begun from other builds of what it reads
        shutil.rmtree(into, ignore_errors=True)
    (into / CHUNKS).mkdir(parents=True, exist_ok=True)
    plan = into / CHUNKS / PLAN
    if plan.exists() and plan.read_bytes() != part.plan:
        raise RunError(f"{into}: holds chunks that are cut otherwise: delete it, and merge again")
    write_atomic(into / STARTED, json_bytes({"inputs": part.inputs, "started": now()}))
    write_atomic(plan, part.plan)


def _goes_on(into: Path, part: _Part) -> bool:
    """Whether what is in the stage's folder was begun from the builds that the shards read."""
    try:
        note = json.loads((into / STARTED).read_bytes())
        return not (into / MANIFEST).exists() and bool(note["inputs"] == part.inputs)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _stamps(inputs: Mapping[str, InputStamp]) -> dict[str, object]:
    return {name: stamp.model_dump() for name, stamp in inputs.items()}


def _kept(folder: Path) -> list[Path]:
    """What chunks said besides their records."""
    return [f for f in sorted(folder.iterdir()) if f.is_file() and f.name != STARTED and not f.name.startswith(".")]


def _judgments(chunk: Path) -> Iterator[Judgment]:
    for number, row in read_rows(chunk):
        if "record" in row:
            try:
                yield Judgment.model_validate(row["record"])
            except ValueError as error:
                raise RunError(f"{chunk}:{number}: damaged line: {' '.join(str(error).split())}") from error
