"""Several runs over one store: run folders that share stages, ledger, metrics and calls, so nothing is done twice.

Each is a whole run folder to everything that reads one; what they share are relative links to the folder above.
"""

from __future__ import annotations

import os
from pathlib import Path

from constitutional.atomic import cannot_write
from constitutional.backends.endpoint.calls import NAME as CALLS

SHARED = ("stages", "ledger.sqlite", "metrics.jsonl", CALLS)
"""What a run folder takes from the store. A stage's folder is named by its key, so results never mix."""


def share(store: Path, place: str) -> Path:
    """The run folder `place` in a store, made when absent. The caller holds the store's lock.

    Raises:
        RunError: it cannot be written.
    """
    folder = store / place
    try:
        (store / "stages").mkdir(parents=True, exist_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        for name in SHARED:
            link(folder / name, store / name)
    except OSError as error:
        raise cannot_write(folder, error) from error
    return folder


def link(path: Path, target: Path) -> None:
    """Makes `path` a relative link to `target`, in the place of an earlier link; the target need not be there yet."""
    wanted = os.path.relpath(target, path.parent)
    if not (path.parent / wanted).parent.exists():  # either is reached through a link
        wanted = os.path.relpath(target.parent.resolve() / target.name, path.parent.resolve())
    if path.is_symlink() and str(path.readlink()) == wanted:
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(wanted, target_is_directory=target.is_dir())
    temporary.replace(path)
