"""Trackers of experiments (TensorBoard, Weights & Biases, Trackio), fed with every figure a run logs.

By accelerate's own classes for all algorithms alike: TRL's callbacks would be told TRL's figures only, not the probes'.
No heavy library is imported before the first figure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from constitutional.errors import ConfigError

Log = Callable[[Mapping[str, Any]], None]
PACKAGES = {"tensorboard": ("tensorboard", "tensorboardX")}
"""Of trackers that more than one package can write for."""


def require_trackers(names: Sequence[str]) -> None:
    """Refuses a tracker that is not installed.

    Raises:
        ConfigError: says what to install.
    """
    for name in names:
        if not any(find_spec(module) for module in PACKAGES.get(name, (name,))):
            raise ConfigError(f"report_to: {name} is not installed; install it with: pip install {name}")


@contextmanager
def trackers(names: Sequence[str], run: str, folder: Path) -> Iterator[Log]:
    """Opens trackers at the first figure and closes them in the end.

    Args:
        names: of `rl.report_to`; with none nothing is done.
        run: what the trackers call the run.
        folder: where those write that write files.

    Yields:
        A function that takes a row of figures, as it goes to metrics.jsonl, `step` among them.

    Raises:
        ConfigError: one is not installed.
    """
    require_trackers(names)
    opened: list[Any] = []

    def log(row: Mapping[str, Any]) -> None:
        if names and not opened:
            opened.extend(_open(names, run, folder))
        figures = {
            name: value
            for name, value in row.items()
            if isinstance(value, int | float) and not isinstance(value, bool) and name not in ("step", "steps")
        }
        for tracker in opened:
            tracker.log(figures, step=row.get("step"))

    try:
        yield log
    finally:
        for tracker in opened:
            tracker.finish()


def _open(names: Sequence[str], run: str, folder: Path) -> Iterator[Any]:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    for name in names:
        kind = LOGGER_TYPE_TO_CLASS[name]
        tracker = kind(run, logging_dir=str(folder)) if kind.requires_logging_directory else kind(run)
        tracker.start()
        yield tracker
