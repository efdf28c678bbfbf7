"""Model folders that are either whole or not there: written beside the target, then renamed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from constitutional.processes import leads, wait_for_all


@contextmanager
def replacing(output: str | Path) -> Iterator[Path]:
    """A fresh folder that takes the place of `output` when the block ends well.

    If the block raises, `output` is as it was. A folder left by a killed run is cleared, and an `output` caught
    between the two renames is put back first. Of several processes the leading one makes and renames the folder.

    Yields:
        The folder to write to, on the same file system as `output`.
    """
    target = Path(output)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.parent / f".{target.name}.partial"
    previous = target.parent / f".{target.name}.previous"
    if not leads():
        wait_for_all()
        yield partial
        wait_for_all()
        wait_for_all()
        return
    if previous.exists() and not target.exists():
        previous.rename(target)
    for stale in (partial, previous):
        shutil.rmtree(stale, ignore_errors=True)
    partial.mkdir()
    wait_for_all()
    try:
        yield partial
        wait_for_all()  # nobody writes to it any more
        if target.exists():
            target.rename(previous)
        partial.rename(target)
        shutil.rmtree(previous, ignore_errors=True)
        wait_for_all()
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def save_merged(model: Any, tokenizer: Any, folder: Path) -> None:
    """Saves weights (LoRA merged in), configuration, tokenizer and chat template as one loadable model folder."""
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
