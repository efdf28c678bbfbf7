"""Progress as a person reads it: one line a chunk with an estimate of what is left, plain when nobody watches."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from constitutional.errors import ConfigError, nearest

# control characters, direction overrides and lone surrogates
_HIDDEN: dict[int, None] = dict.fromkeys(
    [i for i in range(32) if i not in (9, 10)]
    + [*range(0x7F, 0xA0), 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A), *range(0xD800, 0xE000)]
)


SILENCE_S = 20.0
"""Seconds after which `Plain` says what a call is at, though no item is finished."""


def printable(text: str) -> str:
    """Text from data or a model without control characters, so that it cannot drive a terminal."""
    return text.translate(_HIDDEN)


def clock(seconds: float) -> str:
    """Seconds as m:ss."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


class Display(Protocol):
    """Where a run tells how far it is."""

    def stage(self, name: str) -> None:
        """A stage begins to work."""
        ...

    def progress(self, done: int, total: int, note: str = "") -> None:
        """`done` of `total` items of the current stage; `note` is shown beside it."""
        ...

    def doing(self, text: str) -> None:
        """How far a model's call on the stage's present items is."""
        ...

    def say(self, text: str) -> None:
        """One line that stays."""
        ...


class Silent:
    """Says nothing; for notebooks and tests."""

    def stage(self, name: str) -> None:
        """Nothing."""

    def progress(self, done: int, total: int, note: str = "") -> None:
        """Nothing."""

    def doing(self, text: str) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""


class Plain:
    """One line per step of progress, and one now and then in a long one: for logs and pipes."""

    def __init__(self) -> None:
        self._name = ""
        self._started = self._said = time.monotonic()
        self._first = 0
        self._items = ""

    def stage(self, name: str) -> None:
        """Starts the stage's clock."""
        self._name, self._started, self._first, self._items = name, time.monotonic(), -1, ""

    def progress(self, done: int, total: int, note: str = "") -> None:
        """Prints done/total, time so far and an estimate of the time left, from the items done in this process."""
        if self._first < 0:
            self._first = done
        passed = time.monotonic() - self._started
        fresh = done - self._first
        left = f", {clock(passed / fresh * (total - done))} left" if fresh > 0 and done < total else ""
        self._items = f"{done:>4}/{total}"
        self._line(f"{clock(passed)}{left}{'  ' + note if note else ''}")

    def doing(self, text: str) -> None:
        """Prints it where nothing was printed for `SILENCE_S` seconds."""
        if time.monotonic() - self._said >= SILENCE_S:
            self._line(f"{clock(time.monotonic() - self._started)}  {text}")

    def _line(self, text: str) -> None:
        self.say(f"  {self._name:<9} {self._items}  {text}")

    def say(self, text: str) -> None:
        """Prints a line."""
        self._said = time.monotonic()
        print(printable(text), file=sys.stderr, flush=True)


class Rich:
    """A live bar with the estimate, for a terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
        from rich.progress import TimeRemainingColumn as Left

        self._bar = Progress(
            TextColumn("  {task.description:<9}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            Left(),
            TextColumn("{task.fields[note]}", markup=False),
            TextColumn("{task.fields[doing]}", markup=False),
            console=Console(stderr=True),
        )
        self._bar.start()
        self._task = None if not self._bar.tasks else self._bar.tasks[0].id

    def stage(self, name: str) -> None:
        """Adds the stage's bar under the finished ones."""
        self._task = self._bar.add_task(name, total=None, note="", doing="")

    def progress(self, done: int, total: int, note: str = "") -> None:
        """Moves the bar."""
        if self._task is not None:
            self._bar.update(self._task, completed=done, total=total, note=printable(note), doing="")

    def doing(self, text: str) -> None:
        """Shows it beside the bar."""
        if self._task is not None:
            self._bar.update(self._task, doing=printable(text))

    def say(self, text: str) -> None:
        """Prints a line above the bars."""
        self._bar.console.print(printable(text), markup=False, highlight=False)

    def stop(self) -> None:
        """Leaves the terminal as it was."""
        self._bar.stop()


MODES = ("auto", "rich", "plain", "none")


@contextmanager
def open_display(mode: str) -> Iterator[Display]:
    """`rich`, `plain`, `none`, or `auto`: rich on a terminal and plain elsewhere.

    Raises:
        ConfigError: another one.
    """
    if mode not in MODES:
        raise ConfigError(f"no display '{mode}'{nearest(mode, MODES)}")
    if mode == "auto":
        mode = "rich" if sys.stderr.isatty() else "plain"
    if mode == "rich":
        display = Rich()
        try:
            yield display
        finally:
            display.stop()
    else:
        yield Silent() if mode == "none" else Plain()
