"""Files that are whole or absent: no reader and no crash ever sees half of one."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from constitutional.errors import ConstitutionalError, RunError


@contextmanager
def atomic_file(path: Path, error_class: type[ConstitutionalError] = RunError) -> Iterator[BinaryIO]:
    """A file to write to that appears under `path`, whole and durable, when the block ends, and not at all if it fails.

    A file that stood there lends its permissions; a link stays a link.

    Raises:
        error_class: the file cannot be written (disk full, no permission); what stood at `path` before still stands.
    """
    target = path.resolve()
    temp = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temp.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            shutil.copymode(target, temp)
        temp.replace(target)
        sync_folder(target.parent)
    except BaseException as error:
        with suppress(OSError):
            temp.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise cannot_write(path, error, error_class) from error
        raise


def write_atomic(path: Path, content: str | bytes, error_class: type[ConstitutionalError] = RunError) -> None:
    """Writes a file by temporary file, fsync and rename.

    Raises:
        error_class: the file cannot be written; names the path and the reason.
    """
    try:
        data = content.encode("utf-8") if isinstance(content, str) else content
    except UnicodeEncodeError as error:
        raise error_class(f"cannot write {path}: {error}") from error
    with atomic_file(path, error_class) as file:
        file.write(data)


def cannot_write(path: Path, error: OSError, error_class: type[ConstitutionalError] = RunError) -> ConstitutionalError:
    """The one-line error for a write that failed."""
    return error_class(f"cannot write {path}: {error.strerror or error}")


def sync_folder(folder: Path) -> None:
    """Makes a rename or removal in `folder` durable. Windows has no such call and needs none."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
