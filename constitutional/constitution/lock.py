"""The lock: what each `id@version` says, so that no text changes under a version that somebody may have cited.

`NAME.lock` stands beside the file and belongs into version control. It keeps the digest of every version that was ever
locked, digests by field of the present ones, and digests of the files that are extended.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator
from pathlib import Path

from pydantic import Field

from constitutional.atomic import write_atomic
from constitutional.constitution.compose import Composed
from constitutional.constitution.loader import load_composed
from constitutional.constitution.source import stop_if_any
from constitutional.errors import ConstitutionError
from constitutional.principles import Principle
from constitutional.records import Record, short_digest
from constitutional.resources import packaged
from constitutional.validation import locate
from constitutional.yamlfile import load_model


class LockedText(Record):
    """The digest of a principle under one version, and of each field in it; the latter only while it is in use."""

    digest: str
    fields: dict[str, str] = Field(default={})


class Lock(Record):
    """The content of a lock file: extended files by their path from it, principles by `id@version`."""

    files: dict[str, str]
    principles: dict[str, LockedText]


class LockProblem(Record):
    """Something that is not as it was locked; `principle` and `fields` say what changed under its version, if known."""

    place: str
    message: str
    principle: str | None = None
    fields: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        """`file:line:col: message`."""
        return f"{self.place}: {self.message}"


def lock_path(file: Path) -> Path:
    """Where the lock of a constitution file lies."""
    return file.with_suffix(".lock")


def check_lock(name_or_path: str) -> tuple[LockProblem, ...]:
    """What differs from the lock. No lock promises nothing; a new version is nobody's promise until it is locked.

    Raises:
        ConfigError, ConstitutionError: the constitution or its lock cannot be read.
    """
    composed = load_composed(name_or_path)
    path = lock_path(composed.path)
    if not path.exists():
        return ()
    locked = load_model(path, Lock, ConstitutionError)
    return (*_changed_texts(composed, locked), *_changed_files(composed, locked))


def lock(name_or_path: str) -> Path:
    """Writes the lock, and keeps what it says of earlier versions.

    Returns:
        The lock file.

    Raises:
        ConfigError, ConstitutionError: the constitution or its lock cannot be read, a text changed under its version
            (a lock that took it over would hide just what it is there to show), or the lock cannot be written.
    """
    composed = load_composed(name_or_path)
    path = lock_path(composed.path)
    known: dict[str, LockedText] = {}
    if path.exists():
        locked = load_model(path, Lock, ConstitutionError)
        stop_if_any(problem.line for problem in _changed_texts(composed, locked))
        known = {ref: LockedText(digest=text.digest) for ref, text in locked.principles.items()}
    texts = known | {p.ref: LockedText(digest=p.digest, fields=_digests(p)) for p in composed.constitution.principles}
    files = {_name(file.path, composed.path): file.digest for file in composed.extended}
    text = _text(Lock(files=files, principles=texts))
    write_atomic(path, text.encode("utf-8", "backslashreplace"), ConstitutionError)
    return path


def _changed_texts(composed: Composed, locked: Lock) -> Iterator[LockProblem]:
    for index, principle in enumerate(composed.constitution.principles):
        known = locked.principles.get(principle.ref)
        if known is None or known.digest == principle.digest:
            continue
        now = _digests(principle)
        names = [*now, *(name for name in known.fields if name not in now)] if known.fields else []
        fields = tuple(name for name in names if now.get(name) != known.fields.get(name))
        said = " and ".join(f"{name} {_word(name, known.fields, now)}" for name in fields) or "the text changed"
        place, _ = locate(composed.marks, ("principles", index, *fields[:1]))
        file = shlex.quote(str(composed.path))
        message = (
            f"principles.{index}: '{principle.id}': {said} under the unchanged version {principle.version} "
            f"(see {lock_path(composed.path).name}): raise it, `constitutional bump {principle.id} {file}`"
        )
        yield LockProblem(place=place, message=message, principle=principle.id, fields=fields)


def _word(name: str, before: dict[str, str], now: dict[str, str]) -> str:
    return "changed" if name in before and name in now else "added" if name in now else "removed"


def _changed_files(composed: Composed, locked: Lock) -> Iterator[LockProblem]:
    for file in composed.extended:
        name = _name(file.path, composed.path)
        if locked.files.get(name, file.digest) != file.digest:
            message = f"extends: {name} changed since it was locked: look at it, then lock again"
            yield LockProblem(place=file.place, message=message)


def _digests(principle: Principle) -> dict[str, str]:
    return {name: short_digest(value) for name, value in principle.texts.items()}


def _name(path: Path, file: Path) -> str:
    """An extended file as the lock calls it: the same on every machine, wherever the package is installed."""
    folder, path, home = packaged("constitutions"), path.resolve(), file.resolve().parent
    if folder and path.is_relative_to(folder) and not home.is_relative_to(folder):
        return f"packaged:{path.relative_to(folder).as_posix()}"
    return Path(os.path.relpath(path, home)).as_posix()


def _text(lock: Lock) -> str:
    """JSON, sorted, one line an entry, so that version control merges and shows entries."""
    sections = []
    for name, rows in (("files", lock.files), ("principles", lock.principles)):
        plain = lock.model_dump(mode="json", exclude_defaults=True)[name]
        lines = [f"  {json.dumps(key)}: {json.dumps(plain[key], sort_keys=True)}" for key in sorted(rows)]
        sections.append(f' "{name}": {{\n' + ",\n".join(lines) + "\n }" if lines else f' "{name}": {{}}')
    return "{\n" + ",\n".join(sections) + "\n}\n"
