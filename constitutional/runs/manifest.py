"""What a finished stage says of itself, and how it is read back. Reading needs no lock."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import TypeVar

from pydantic import JsonValue

import constitutional
from constitutional.errors import RunError
from constitutional.records import Failure, Record
from constitutional.runs.logs import file_digest, read_rows

R = TypeVar("R", bound=Record)

DATA, FAILURES, MANIFEST = "data.jsonl", "failures.jsonl", "manifest.json"
_PACKAGES = ("torch", "transformers", "trl", "datasets")


class InputStamp(Record):
    """Which build of which result a stage read."""

    key: str
    built: str


class Manifest(Record):
    """What a finished stage was made from, what it made and with what; times are UTC."""

    stage: str
    key: str
    settings: dict[str, JsonValue]
    inputs: dict[str, InputStamp]
    outputs: dict[str, str]
    """sha256 by path relative to the stage's folder."""
    counts: dict[str, int]
    failures: dict[str, int]
    versions: dict[str, str]
    git: str | None
    seed: int | None
    ledger_head: str | None
    built: str
    """Unique to this build: what depends on an older build of the same key is stale."""
    started: str
    ended: str
    seconds: float
    """Wall time of the process that finished the stage; interrupted attempts are not in it."""


@dataclass(frozen=True)
class StageResult:
    """A finished stage, to read."""

    folder: Path
    manifest: Manifest
    fresh: bool = field(default=False, compare=False)
    """Whether this process has just made it; of the processes of a launch, the leading one."""

    @property
    def key(self) -> str:
        """Digest of the stage's name, settings and input keys."""
        return self.manifest.key

    def records(self, record_type: type[R]) -> list[R]:
        """The merged records, in input order.

        Raises:
            RunError: a damaged line (named as file:line), or a file that is not the one the manifest names.
        """
        return self.read(DATA, record_type)

    def failures(self) -> list[Failure]:
        """The items that failed, in input order. Raises as `records` does."""
        return self.read(FAILURES, Failure)

    def read(self, name: str, record_type: type[R]) -> list[R]:
        """The records of one of the stage's JSON-lines files. Raises as `records` does."""
        path = self.folder / name
        if name not in self.manifest.outputs:
            raise RunError(f"stage {self.manifest.stage} has no {name}: {self.folder}")
        records = [_parsed(path, number, row, record_type) for number, row in read_rows(path)]
        self._same(name, file_digest(path))
        return records

    def verify(self) -> None:
        """Compares every file of the stage, models too, with the manifest; a file that has not changed is read once.

        Raises:
            RunError: a file is gone, or is not the one the manifest names.
        """
        for name in self.manifest.outputs:
            path = self.folder / name
            try:
                stamp = path.stat()
                found = _digest_of(path, stamp.st_size, stamp.st_mtime_ns, stamp.st_ino)
            except OSError as error:
                raise RunError(f"cannot read {path}: {error.strerror or error}") from error
            self._same(name, found)

    def _same(self, name: str, found: str) -> None:
        if found != self.manifest.outputs[name]:
            path = self.folder / name
            raise RunError(f"{path}: not the file its manifest names (sha256 differs); delete {self.folder} to redo it")


@lru_cache(maxsize=1024)
def _digest_of(path: Path, size: int, changed: int, inode: int) -> str:
    """The sha256 of a file that is as it was, by what the file system says of it."""
    return file_digest(path)


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a finished stage; None where there is none.

    Raises:
        RunError: there is one, and it cannot be read.
    """
    path = folder / MANIFEST
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise RunError(f"{path}: not a manifest that this version reads; delete {folder} to redo the stage") from error


def read_result(folder: Path) -> StageResult | None:
    """The finished stage in a folder; None when it has no manifest or an output is gone. Raises as `read_manifest`."""
    manifest = read_manifest(folder)
    complete = manifest is not None and all((folder / name).is_file() for name in manifest.outputs)
    return StageResult(folder, manifest) if manifest is not None and complete else None


def load_result(folder: Path) -> StageResult | None:
    """As `read_result`, and None where the manifest cannot be read. Needs no lock."""
    try:
        return read_result(folder)
    except RunError:
        return None


def finished_results(run: Path) -> list[StageResult]:
    """Every finished stage of a run folder, current or not, in the order of their folders. Needs no lock."""
    found = (load_result(manifest.parent) for manifest in sorted(run.glob(f"stages/*/*/{MANIFEST}")))
    return [result for result in found if result is not None]


def _parsed(path: Path, number: int, row: dict[str, object], record_type: type[R]) -> R:
    try:
        return record_type.model_validate(row)
    except ValueError as error:
        raise RunError(f"{path}:{number}: damaged line: {' '.join(str(error).split())}") from error


def now() -> str:
    """The wall clock in UTC, to the microsecond."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def package_versions() -> dict[str, str]:
    """Versions of the packages that decide results, read from their metadata without importing them."""
    return dict(_installed())


@lru_cache(maxsize=1)
def _installed() -> dict[str, str]:
    versions = {"constitutional": constitutional.__version__}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


@lru_cache(maxsize=1)
def git_commit() -> str | None:
    """The commit this package runs from, with `-dirty` when files differ from it; None outside its own checkout."""
    source = Path(constitutional.__file__).resolve().parents[1]
    if not (source / ".git").exists():
        return None
    command = ["git", "-C", str(source), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None
