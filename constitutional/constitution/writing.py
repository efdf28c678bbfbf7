"""Files beside which nothing half-written is ever seen."""

from __future__ import annotations

import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

from constitutional.errors import ConstitutionError


def write_whole(path: Path, content: bytes) -> None:
    """Replaces a file at once, with its permissions kept; a link stays a link.

    Raises:
        ConstitutionError: it cannot be written; what stood there still stands.
    """
    target = path.resolve()
    temp = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temp.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            shutil.copymode(target, temp)
        temp.replace(target)
    except OSError as error:
        with suppress(OSError):
            temp.unlink(missing_ok=True)
        raise ConstitutionError(f"{path}: cannot be written: {error.strerror or error}") from error
