"""Where the real data of others lies, never in this repository: $SHARED_DATA, or `shared/data` in a parent folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def shared_folder() -> Path | None:
    if "SHARED_DATA" in os.environ:
        return Path(os.environ["SHARED_DATA"])
    found = (parent / "shared" / "data" for parent in Path(__file__).resolve().parents)
    return next((folder for folder in found if folder.is_dir()), None)


def sample(name: str) -> Path:
    """A file of the shared data; the test is skipped where it is not."""
    folder = shared_folder()
    if folder is None or not (folder / name).is_file():
        pytest.skip(f"shared/data/{name} is not here")
    return folder / name
