"""How far a call to a model is, for whoever shows progress: one call on a chunk may take minutes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Listener = Callable[[str], None]

_LISTENER: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Within it `tell` reaches the listener; in threads and tasks, where they were begun with this context."""
    before = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(before)


def tell(done: int, total: int, what: str) -> None:
    """Says "`done` of `total` `what`", if anybody listens."""
    if listener := _LISTENER.get():
        listener(f"{done} of {total} {what}")
