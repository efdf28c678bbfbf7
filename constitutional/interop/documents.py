"""What every format shares: a reader turns a `Source` into an `Imported`, a writer a constitution into a `Written`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from constitutional.errors import ConstitutionError
from constitutional.few_shots import NO_SHOTS, FewShots
from constitutional.interop.names import slug
from constitutional.principles import Constitution, Principle

MAX_BYTES = 64 << 20
VERSION = "1.0.0"
"""Of what comes from a format without versions."""


@dataclass(frozen=True)
class Source:
    """A file of some format. `name` stands for it in messages, and is the constitution's where the file has none."""

    name: str
    text: str


@dataclass(frozen=True)
class Imported:
    """A file as a constitution. `lost` says, a line each, what of the file the constitution does not hold."""

    constitution: Constitution
    lost: tuple[str, ...] = ()


@dataclass(frozen=True)
class Written:
    """A constitution in some format: the principles that are in it, in its order, and why each other (by id) is not."""

    text: str
    principles: tuple[Principle, ...]
    left_out: dict[str, str]


def read_source(path: Path, max_bytes: int = MAX_BYTES) -> Source:
    """Reads a text file of at most `max_bytes`, line ends as they are.

    Raises:
        ConstitutionError: it cannot be read, is too large, or is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(max_bytes + 1)
    except (OSError, ValueError) as error:
        raise ConstitutionError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if len(raw) > max_bytes:
        raise ConstitutionError(f"{path}: larger than {max_bytes} bytes")
    try:
        return Source(str(path), raw.decode("utf-8").removeprefix("\ufeff"))
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ConstitutionError(f"{path}:{line}: not valid UTF-8") from error


def principle_of(id: str, title: str | None = None, **fields: Any) -> Principle:
    """A principle from a format without versions; called by its id where there is no title."""
    return Principle(id=id, version=VERSION, title=id if title is None else title, **fields)


def constitution_of(source: Source, principles: Sequence[Principle], few_shots: FewShots = NO_SHOTS) -> Constitution:
    """A constitution from a file that says nothing of itself: called by the file's name."""
    if not principles:
        raise ConstitutionError(f"{source.name}: holds no principle")
    name = slug(Path(source.name).stem)
    given = few_shots if few_shots.texts() else None
    return Constitution(id=name, version=VERSION, title=name, few_shots=given, principles=tuple(principles))


def fitting(
    constitution: Constitution, problem: Callable[[Principle], str | None]
) -> tuple[list[Principle], dict[str, str]]:
    """The principles a format has a form for, and for each other one (by id) why not.

    Raises:
        ConstitutionError: it has none for any of them.
    """
    left_out = {p.id: reason for p in constitution.principles if (reason := problem(p)) is not None}
    fit = [p for p in constitution.principles if p.id not in left_out]
    if not fit:
        first = constitution.principles[0].id
        raise ConstitutionError(f"{constitution.id}: no principle fits the format: '{first}': {left_out[first]}")
    return fit, left_out


def lacking(*names: str) -> Callable[[Principle], str | None]:
    """For `fitting`: a principle must have these texts."""

    def problem(principle: Principle) -> str | None:
        missing = [name for name in names if not getattr(principle, name)]
        return f"has no {' and no '.join(missing)}" if missing else None

    return problem


def asked_as(prefix: str) -> Callable[[Principle], str | None]:
    """For `fitting`: the comparison request must be a text of the format, put as a question by `prefix`."""

    def problem(principle: Principle) -> str | None:
        request = principle.comparison_request or ""
        if request.startswith(prefix) and request != prefix:
            return None
        return f"its comparison_request does not begin with {prefix!r}"

    return problem
