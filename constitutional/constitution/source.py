"""One constitution file as it is read, from the disk or from elsewhere, before it is laid over what it extends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import Field, JsonValue

from constitutional.errors import ConstitutionError, nearest, one_line
from constitutional.extends import Base, beside, extended
from constitutional.principles import Constitution, Principle
from constitutional.resources import packaged
from constitutional.validation import Loc, Marks, validate
from constitutional.yamlfile import load_yaml


class ConstitutionFile(Constitution):
    """What one file may say: a constitution, and how it differs from the files it extends."""

    extends: str | tuple[str, ...] = ()
    """Constitutions this one is laid over: paths from this file, or packaged names. Later ones win by id."""
    remove: tuple[str, ...] = ()
    """Ids of extended principles to leave out."""
    override: dict[str, dict[str, JsonValue]] = Field(default={})
    """Single fields of extended principles: id, then field and value."""


class Extension(ConstitutionFile):
    """A file that extends others, so that it need not have principles of its own."""

    principles: tuple[Principle, ...] = ()


def file_schema() -> dict[str, Any]:
    """The JSON Schema of a constitution file, for editors. What only loading can say (places, names) is not in it."""
    schema = ConstitutionFile.model_json_schema()
    schema["required"] = [name for name in schema["required"] if name != "principles"]  # those it extends may do
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


@dataclass(frozen=True)
class Tree:
    """Where files are read from: the disk, or a git revision."""

    beside: Callable[[Path, str], Path | None]
    load: Callable[[Path], tuple[Any, Marks]]


DISK = Tree(beside, partial(load_yaml, error_class=ConstitutionError))


def read_file(path: Path, tree: Tree = DISK) -> tuple[ConstitutionFile, Any, Marks]:
    """What one file says, without what it extends: the record, the plain values and their places.

    Raises:
        ConstitutionError: one line `file:line:col: key: message` for each thing wrong.
    """
    data, marks = tree.load(path)
    model = Extension if isinstance(data, dict) and "extends" in data else ConstitutionFile
    file = validate(data, marks, model, ConstitutionError)
    stop_if_any(_duplicates(file, marks))
    return file, data, marks


def bases_of(path: Path, file: ConstitutionFile, marks: Marks, tree: Tree) -> list[Base]:
    """The files that a file extends, in its order.

    Raises:
        ConstitutionError: no such file, with the nearest name.
    """
    return extended(file.extends, marks, partial(_look_up, tree, path), ConstitutionError, partial(_hint, path))


def stop_if_any(problems: Iterable[str]) -> None:
    """Raises them all as one error, a line each.

    Raises:
        ConstitutionError: there is one.
    """
    lines = [one_line(problem) for problem in problems]
    if lines:
        raise ConstitutionError("\n".join(lines))


def _look_up(tree: Tree, file: Path, name: str) -> Path | None:
    """Beside the file, else packaged: never from the working directory, so a file means the same everywhere."""
    folder = packaged("constitutions")
    fallback = folder / f"{name}.yaml" if folder and name in _packaged_names() else None
    return tree.beside(file, name) or fallback


def _packaged_names() -> list[str]:
    folder = packaged("constitutions")
    return sorted(path.stem for path in folder.glob("*.yaml")) if folder else []


def _hint(file: Path, name: str) -> str:
    files = [path.name for path in file.parent.glob("*.yaml")] if file.parent.is_dir() else []
    return " beside it, nor packaged" + nearest(name, [*_packaged_names(), *files[:100]])


def _duplicates(file: ConstitutionFile, marks: Marks) -> Iterator[str]:
    named: list[tuple[Loc, str, str]] = [
        (("principles", index, "id"), p.id, "principle id") for index, p in enumerate(file.principles)
    ]
    named += [(("remove", index), name, "removed id") for index, name in enumerate(file.remove)]
    first: dict[tuple[str, str], Loc] = {}
    for loc, name, what in named:
        if first.setdefault((what, name), loc) != loc:
            place = marks[first[what, name]]
            yield f"{marks[loc]}: {'.'.join(map(str, loc))}: duplicate {what} '{name}' (first at {place})"
