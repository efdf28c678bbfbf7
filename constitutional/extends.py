"""`extends:` in a YAML file: which files it is laid over. Recipes and constitutions share it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from constitutional.errors import ConstitutionalError, one_line
from constitutional.validation import Marks


class Base(NamedTuple):
    """A file that another extends, and the place (`file:line:col`) that names it."""

    path: Path
    place: str


def extended(
    value: object,
    marks: Marks,
    look_up: Callable[[str], Path | None],
    error_class: type[ConstitutionalError],
    hint: Callable[[str], str] = lambda name: "",
) -> list[Base]:
    """The files that the value of an `extends` key names, in its order.

    Args:
        value: one name, or a list of them.
        marks: the places of the file that says so.
        look_up: the file of a name, None when there is none.
        error_class: what to raise.
        hint: what to add to the complaint about a name that leads nowhere.

    Raises:
        error_class: not a name or a list of names, or no such file.
    """
    place = marks.get(("extends",), marks[()])
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) and name for name in names):
        raise error_class(f"{place}: extends: expected a file or a list of files")
    bases = []
    for index, name in enumerate(names):
        here = marks.get(("extends", index), place)
        path = look_up(name)
        if path is None:
            raise error_class(one_line(f"{here}: extends: no such file '{name}'{hint(name)}"))
        bases.append(Base(path, here))
    return bases


def beside(file: Path, name: str) -> Path | None:
    """The file of that name, relative to the folder of `file`; None when there is none."""
    path = file.parent / name
    try:
        return path if path.is_file() else None
    except (OSError, ValueError):  # a name too long for the file system, or with a NUL
        return None
