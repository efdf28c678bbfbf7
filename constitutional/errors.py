"""The error tree: one root, children named by the boundary they guard, each also a stdlib error.

Bad input stops at load with one of these; the command line prints it without a traceback. A bad *item* in good input
is not an error but a `constitutional.records.Failure`, and the run goes on.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path


class ConstitutionalError(Exception):
    """Root of every error this package raises on purpose."""


class ConstitutionError(ConstitutionalError, ValueError):
    """A constitution file that cannot be used."""


class TemplateError(ConstitutionalError, ValueError):
    """A template that is missing, malformed, unsafe or not given a variable it uses."""


class ConfigError(ConstitutionalError, ValueError):
    """A recipe, setting, name or path that cannot be used."""


class DataError(ConstitutionalError, ValueError):
    """A prompt or preference file that cannot be used."""


class BackendError(ConstitutionalError, RuntimeError):
    """A model that cannot be opened or did not answer; `retryable` says whether asking again may help."""

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable

    def __reduce__(self) -> tuple[object, ...]:  # keep `retryable` when the error crosses a process boundary
        return _rebuild_backend_error, (str(self), self.retryable)


def _rebuild_backend_error(message: str, retryable: bool) -> BackendError:
    return BackendError(message, retryable=retryable)


class BudgetError(ConstitutionalError, RuntimeError):
    """The next call to a paid model could exceed the budget; what is answered is kept."""


class PendingError(ConstitutionalError, RuntimeError):
    """Calls to a model wait in a batch file, to be answered elsewhere and read back."""


class ShardDone(ConstitutionalError):
    """A shard of a run has its chunks; the others are made elsewhere."""


class LedgerError(ConstitutionalError, RuntimeError):
    """A ledger that cannot be opened, written or verified."""


class RunError(ConstitutionalError, RuntimeError):
    """A run folder that is locked, damaged or cannot be written."""


class GateError(ConstitutionalError, RuntimeError):
    """The judge did not pass its gate and the recipe names no fallback."""


class TrainingError(ConstitutionalError, RuntimeError):
    """Training that would silently do nothing, or that went wrong at a named step."""


def one_line(text: str) -> str:
    """Control characters escaped: names come from files, and what tells of them is one line on somebody's terminal."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def nearest(name: str, legal: Iterable[str]) -> str:
    """A hint naming the closest legal name, or the legal names when none is close.

    Returns:
        A string to append to an error message, beginning with a space.
    """
    names = sorted(legal)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f" (did you mean '{close[0]}'?)"
    return f" (known: {', '.join(names)})" if names else ""


def nearest_file(path: Path) -> str:
    """A hint naming the file beside a missing one whose name is closest; empty where none is close."""
    try:
        names = sorted(other.name for other in path.parent.iterdir() if other.is_file())
    except (OSError, ValueError):  # no folder, or no name of one
        return ""
    close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.8)  # endings alone make files of a kind alike
    return f" (did you mean '{close[0]}'?)" if close else ""


def shortened(text: str, width: int, mark: str = "...") -> str:
    """The text in at most `width` characters; `mark` stands for what is left out at its end."""
    return text if len(text) <= width else text[: width - len(mark)] + mark


@contextmanager
def retold(tell: Callable[[str], str]) -> Iterator[None]:
    """Input errors from within are told in other words."""
    try:
        yield
    except BackendError as error:
        raise BackendError(tell(str(error)), retryable=error.retryable) from error
    except (ConfigError, DataError) as error:
        raise type(error)(tell(str(error))) from error


def naming_key(key: str) -> AbstractContextManager[None]:
    """Input errors from within begin with the setting that they are about."""
    return retold(lambda message: f"{key}: {message}")
