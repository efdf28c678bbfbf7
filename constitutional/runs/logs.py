"""Append-only logs and JSON lines, read with file:line errors; digests of files.

Lines are cut at the newline byte only: model text may hold U+2028 or U+0085, which `str.splitlines` would cut at.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from constitutional.atomic import cannot_write, write_atomic
from constitutional.errors import RunError
from constitutional.records import canonical_json


def json_bytes(value: object) -> bytes:
    r"""Canonical JSON as UTF-8; a lone surrogate, which UTF-8 cannot hold, becomes its JSON escape `\udXXX`."""
    return canonical_json(value).encode("utf-8", "backslashreplace")


def file_digest(path: Path) -> str:
    """The sha256 of a file's bytes, which are made durable first: a manifest must not outlive what it names."""
    with path.open("rb") as file:
        if os.name == "posix":
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def append_line(path: Path, fields: Mapping[str, object]) -> None:
    """Appends one JSON line to a log. A line torn by an earlier crash is dropped first, so every line is whole.

    Numbers that JSON has no form for are written as the strings "nan", "inf" and "-inf".

    Raises:
        RunError: the log cannot be written; it then ends where it ended before.
    """
    line = json_bytes(_finite(fields)) + b"\n"
    try:
        with path.open("a+b", buffering=0) as file:
            size = _drop_torn_tail(file)
            written = file.write(line)
            if written != len(line):  # an unbuffered write to a full disk stores what fits and does not raise
                file.truncate(size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        raise cannot_write(path, error) from error


def read_log(path: Path) -> list[dict[str, object]]:
    """The lines of a log, oldest first; an absent log is empty, and a torn last line is not yet a line.

    Raises:
        RunError: a damaged line, named as file:line.
    """
    return [row for _, row in read_rows(path, torn_tail=True)] if path.exists() else []


def drop_lines(path: Path, unwanted: Callable[[Mapping[str, object]], bool]) -> None:
    """Takes lines out of a log; the others keep their bytes. Nothing is written where none is unwanted.

    Raises:
        RunError: a damaged line, named as file:line, or the log cannot be written.
    """
    if not path.exists():
        return
    try:
        with path.open("rb") as file:
            lines = list(file)
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror or error}") from error
    rows = read_rows(path, torn_tail=True)
    kept = [line for line, (_, row) in zip(lines, rows, strict=False) if not unwanted(row)]
    if len(kept) < len(lines):
        write_atomic(path, b"".join(kept))


def read_rows(path: Path, *, torn_tail: bool = False) -> Iterator[tuple[int, dict[str, object]]]:
    """The JSON objects of a JSON-lines file with their line numbers, from 1.

    Raises:
        RunError: the file cannot be read or a line is damaged; named as file:line.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    if torn_tail:
                        return
                    raise RunError(f"{path}:{number}: damaged line: the file ends in the middle of it")
                yield number, _json_object(path, number, line)
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror or error}") from error


def _json_object(path: Path, number: int, line: bytes) -> dict[str, object]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path}:{number}: damaged line: {error}") from error
    if not isinstance(row, dict):
        raise RunError(f"{path}:{number}: damaged line: not a JSON object")
    return row


def _drop_torn_tail(file: BinaryIO) -> int:
    """Cuts an unfinished last line off; returns the file's size in bytes."""
    size = file.seek(0, os.SEEK_END)
    if not size:
        return 0
    file.seek(size - 1)
    if file.read(1) != b"\n":
        file.seek(0)
        size = file.read().rfind(b"\n") + 1
        file.truncate(size)
    return size


def _finite(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
