"""What can go wrong with one attempt; each kind says what is done about it."""

from __future__ import annotations

from constitutional.errors import BackendError


class Fault(Exception):
    """No answer came: asked again until the patience is at its end, which then ends the run, resumably.

    `overloaded` says that fewer calls at once may help, `retry_after` how long the server wants to be left alone.
    """

    def __init__(self, message: str, *, overloaded: bool = False, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.overloaded, self.retry_after = overloaded, retry_after


class Garbage(Exception):
    """Something came that is no answer: asked again a few times, then it is the item's failure, never a value."""

    billed: tuple[int, int] | None = None
    """Tokens read and drawn for it, where the server says so."""


class NoLogprobs(Garbage):
    """An answer without the log-probabilities that were asked for."""


class Rejected(Exception):
    """The server will not answer this request, however often it is asked: the item's failure."""

    billed: tuple[int, int] | None = None
    """Tokens read and drawn for an answer that was then taken away, where the server says so."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def no_logprobs(model: str) -> BackendError:
    """What a judge without log-probabilities is answered with."""
    return BackendError(
        f"{model} gives no log-probabilities: judge with `mode: vote` (judging.mode in the recipe) or use another judge"
    )
