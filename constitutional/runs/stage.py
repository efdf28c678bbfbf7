"""One stage's folder: chunks that are done or not, one merged file, and a manifest written last.

A stage is finished when its manifest stands and names the very build of each input that is current now. Work is cut
into chunks fixed by input order, a finished chunk is never redone, and the merged file is the chunks in order; so a run
killed anywhere and resumed gives the same bytes as one that never was.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import JsonValue

from constitutional.atomic import cannot_write, write_atomic
from constitutional.errors import RunError
from constitutional.processes import leads
from constitutional.records import Failure, Judgment, Record, canonical_json, short_digest
from constitutional.runs.chunk_files import CHUNKS, PLAN, STARTED, Plan, chunk_file, chunk_line, merge_chunks
from constitutional.runs.engine import Chunks, Engine, Here, StageName
from constitutional.runs.logs import file_digest, json_bytes
from constitutional.runs.manifest import (
    DATA,
    FAILURES,
    MANIFEST,
    InputStamp,
    Manifest,
    StageResult,
    git_commit,
    now,
    package_versions,
    read_result,
)

T = TypeVar("T")
R = TypeVar("R", bound=Record)

Take = Callable[[StageName, Chunks], None]
"""What who reads a run without holding it does with the work of an unfinished stage; it does not return."""
_CHECKPOINTS = "checkpoints"
_GLANCE = 0.1  # seconds between two looks at what another process writes


class Stage:
    """One stage under one set of settings and inputs. Made by `RunFolder.stage`, whose lock it relies on."""

    def __init__(
        self,
        root: Path,
        number: int,
        name: str,
        settings: Mapping[str, object],
        inputs: Mapping[str, StageResult],
        engine: Engine | None = None,
        take: Take | None = None,
    ) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
            raise RunError(f"'{name}' cannot name a stage: small letters, digits, '-' and '_' only")
        self.name = name
        self.settings: dict[str, JsonValue] = json.loads(canonical_json(dict(settings)))
        input_keys = {label: result.key for label, result in inputs.items()}
        self.key = short_digest({"stage": name, "settings": self.settings, "inputs": input_keys})
        self._inputs = {k: InputStamp(key=r.key, built=r.manifest.built) for k, r in inputs.items()}
        self._path = root / f"{number:02d}-{name}" / self.key
        self._clock = time.monotonic()
        self._engine, self._take = engine or Here(), take
        self._kept: dict[str, str] = {}
        self._results, self._verified = tuple(inputs.values()), False

    def result(self) -> StageResult | None:
        """The finished result, or None when it is absent, lacks a file or was made from an older build of an input.

        Raises:
            RunError: its manifest cannot be read: what cannot be told to be stale is not removed.
        """
        result = read_result(self._path)
        if result is None or result.manifest.inputs != self._inputs:
            return None
        own = leads() and self._take is None
        if own and (self._path / STARTED).exists():  # killed after the manifest, before the tidying
            self._tidy()
        return result

    @property
    def folder(self) -> Path:
        """The folder to work in. Whatever is stale in it is removed first; what an interrupted attempt left is kept.

        What it is to be made from is what its manifests name, to the byte. Of several processes the leading one sees
        to all that, before it calls the others.

        Raises:
            RunError: it cannot be written, or a file of an input is not the one that was made.
        """
        if not leads() or self.result() is not None:
            return self._path
        if not self._verified:
            for result in self._results:
                result.verify()
            self._verified = True
        if self._note() is None or (self._path / MANIFEST).exists():
            try:
                if self._path.exists():
                    shutil.rmtree(self._path)
                self._path.mkdir(parents=True)
            except OSError as error:
                raise cannot_write(self._path, error) from error
            inputs = {name: stamp.model_dump() for name, stamp in self._inputs.items()}
            write_atomic(self._path / STARTED, json_bytes({"inputs": inputs, "started": now()}))
        return self._path

    @property
    def checkpoints(self) -> Path:
        """Where a training keeps what it would go on from; gone when the stage is finished."""
        return self.folder / _CHECKPOINTS

    def write(self, name: str, content: str) -> None:
        """Writes a file of the stage's folder, whole or not at all; of several processes the leading one does."""
        if leads():
            write_atomic(self.folder / name, content)

    def run_chunks(
        self,
        items: Sequence[T],
        work: Callable[[Sequence[T], int], Iterable[R | Failure]],
        *,
        chunk_size: int,
        output_type: type[R],
        before_commit: Callable[[list[R]], object] | None = None,
        progress: Callable[[int, int], None] | None = None,
        known: Callable[[Sequence[T]], list[Judgment]] | None = None,
        here: bool = False,
    ) -> None:
        """Has the chunks made that are not done yet; each becomes one file, written atomically, in order.

        Args:
            items: the stage's input, in an order that settings and inputs determine.
            work: `work(chunk_items, chunk_index)` gives the chunk's records and failures, in order.
            chunk_size: items a chunk. With another size than before, an unfinished stage starts over.
            output_type: the type of every record.
            before_commit: called with a chunk's records before its file exists, so it must bear repetition (the
                ledger's `append` does).
            progress: called with (items done, items in all), before each chunk that is to be done and at the end.
            known: the run's judgments on a chunk's items; needed where `work` looks up what is in the ledger.
            here: the work is not worth handing to another process: no model is asked.

        Raises:
            RunError: a chunk cannot be written.
            PendingError: chunks wait for calls in batch files; the others are done.
            TypeError: `work` gave something else than `output_type` or Failure.
        """
        report = progress or (lambda done, total: None)
        if chunk_size < 1:
            raise RunError(f"stage {self.name}: chunk_size must be at least 1, not {chunk_size}")
        if self.result() is None:
            stage = StageName(self.name, self.key, tuple(stamp.key for stamp in self._inputs.values()))
            chunks = Chunks(items, work, chunk_size, known, here, self._kept)
            if self._take is not None:
                self._take(stage, chunks)
            folder = self._chunk_folder(len(items), chunk_size)
            missing = [index for index in range(len(chunks)) if not chunk_file(folder, index).exists()]
            left = iter(missing)

            def tell() -> None:
                if (index := next(left, None)) is not None:
                    report(index * chunk_size, len(items))

            tell()
            for index, made in self._engine.make(stage, chunks, missing):
                lines = [chunk_line(item, output_type) for item in made.records]
                for name, text in made.kept.items():  # before the chunk's own file: a finished chunk has them
                    write_atomic(self._path / name, text)
                if before_commit:
                    before_commit([item for item in made.records if isinstance(item, output_type)])
                write_atomic(chunk_file(folder, index), b"".join(lines))
                tell()
        report(len(items), len(items))

    def keep(self, name: str, text: str) -> None:
        """Called by `work`: a file for the stage's folder that belongs to the chunk that is being made."""
        self._kept[name] = text

    def finish(
        self,
        counts: Mapping[str, int] | None = None,
        outputs: Sequence[str] = (),
        *,
        ledger_head: str | None = None,
        failed: Sequence[Failure] = (),
    ) -> StageResult:
        """Merges the chunks, if there are any, and writes the manifest, after which the stage is finished.

        A process that does not lead waits until the leading one has done so.

        Args:
            counts: what the manifest shall count beside `records` and `failures`.
            outputs: files and folders the stage wrote in its folder, relative to it.
            ledger_head: the ledger's head after this stage's judgments.
            failed: items that failed outside the chunks; counted in the manifest with the chunks' own.

        Raises:
            RunError: a chunk is missing or damaged, an output is missing, or the disk is full.
        """
        while not leads() and self.result() is None:
            time.sleep(_GLANCE)
        if done := self.result():
            return done
        folder, names = self.folder, list(outputs)
        tally: dict[str, int] = {}
        failures: Counter[str] = Counter()
        if (folder / CHUNKS).is_dir():
            tally["records"], failures = merge_chunks(folder)
            tally["failures"] = failures.total()
            names += [DATA, FAILURES]
        failures.update(failure.kind for failure in failed)
        seed, started = self.settings.get("seed"), self._note() or now()
        manifest = Manifest(
            stage=self.name,
            key=self.key,
            settings=self.settings,
            inputs=self._inputs,
            outputs=_digests(folder, names),
            counts={**tally, **(counts or {})},
            failures=dict(sorted(failures.items())),
            versions=package_versions(),
            git=git_commit(),
            seed=seed if isinstance(seed, int) else None,
            ledger_head=ledger_head,
            built=f"{started}-{secrets.token_hex(8)}",
            started=started,
            ended=now(),
            seconds=round(time.monotonic() - self._clock, 3),
        )
        write_atomic(folder / MANIFEST, json.dumps(manifest.model_dump(mode="json"), indent=2) + "\n")
        self._tidy()
        return StageResult(folder, manifest, fresh=True)

    def _tidy(self) -> None:
        """Removes what only an unfinished stage needs; the note goes last, so an interrupted tidying is resumed."""
        for temp in self._path.glob(".*.tmp"):
            temp.unlink(missing_ok=True)
        for name in (CHUNKS, _CHECKPOINTS):
            shutil.rmtree(self._path / name, ignore_errors=True)
        (self._path / STARTED).unlink(missing_ok=True)

    def _note(self) -> str | None:
        """When the attempt in the folder began, or None when there is none or it read other builds of the inputs."""
        try:
            note = json.loads((self._path / STARTED).read_bytes())
            same = {name: InputStamp(**stamp) for name, stamp in note["inputs"].items()} == self._inputs
            return str(note["started"]) if same else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def _chunk_folder(self, items: int, chunk_size: int) -> Path:
        chunks = self.folder / CHUNKS
        plan, plan_file = Plan(items, chunk_size).to_bytes(), chunks / PLAN
        try:
            if not plan_file.exists() or plan_file.read_bytes() != plan:  # chunks cut differently must not be mixed
                shutil.rmtree(chunks, ignore_errors=True)
                chunks.mkdir()
                write_atomic(plan_file, plan)
        except OSError as error:
            raise cannot_write(chunks, error) from error
        return chunks


def _digests(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """sha256 of each output file, a folder standing for every file in it."""
    digests: dict[str, str] = {}
    for name in names:
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()) or not path.exists():
            raise RunError(f"output '{name}' is not in the stage's folder {folder}")
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                digests[file.relative_to(folder).as_posix()] = file_digest(file)
    return digests
