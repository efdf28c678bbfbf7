"""YAML files read strictly: one meaning per file, and every error at its file:line:column.

What YAML 1.1 would guess or expand is refused or stays text: duplicate keys, anchors, aliases, merge keys, tags and
second documents are errors; `yes`, `on`, `1:30`, `010` and dates are strings; only `true`/`false`, `null`/`~` and
numbers as JSON writes them (also `+1`, `.5`, `1.`) are anything else. Keys are always strings.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import yaml
from pydantic import BaseModel

from constitutional.errors import ConstitutionalError, nearest_file, one_line
from constitutional.validation import Loc, Marks, validate

Model = TypeVar("Model", bound=BaseModel)

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_DIGITS = 64

_LOADER: Any = getattr(
    yaml, "CSafeLoader", yaml.SafeLoader
)  # the same events, ten times faster, where libyaml is built in
_WORDS: dict[str, bool | None] = {"": None, "~": None, "null": None, "Null": None, "NULL": None}
_WORDS |= {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def load_model(path: Path, model: type[Model], error_class: type[ConstitutionalError]) -> Model:
    """Reads a YAML file into a pydantic model.

    Args:
        path: the file.
        model: the model its top-level mapping must fit; types are strict ("2" is no integer).
        error_class: what to raise.

    Raises:
        error_class: one line `file:line:col: key: message` for each thing wrong.
    """
    data, marks = load_yaml(path, error_class)
    return validate(data, marks, model, error_class)


def load_yaml(path: Path, error_class: type[ConstitutionalError]) -> tuple[Any, Marks]:
    """Reads a YAML file into plain values.

    Returns:
        The data, and for each key and list item (by its path from the root) its place as `file:line:col`.

    Raises:
        error_class: the file cannot be read, or holds something the module refuses.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        hint = nearest_file(path) if isinstance(error, FileNotFoundError) else ""
        raise error_class(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}{hint}") from error
    return parse_bytes(raw, str(path), error_class)


def parse_bytes(raw: bytes, name: str, error_class: type[ConstitutionalError]) -> tuple[Any, Marks]:
    """`load_yaml` of the content of a file; `name` stands for the file in messages."""
    if len(raw) > MAX_BYTES:
        raise error_class(f"{name}:1:1: larger than {MAX_BYTES} bytes")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line, column = _place(raw[: error.start].decode("utf-8"))
        raise error_class(f"{name}:{line}:{column}: not valid UTF-8") from error
    return parse_yaml(text, name, error_class)


def parse_yaml(text: str, name: str, error_class: type[ConstitutionalError]) -> tuple[Any, Marks]:
    """`load_yaml` of a text; `name` stands for the file in messages."""
    text = text.removeprefix("\ufeff")
    bad = _UNPRINTABLE.search(text)
    if bad:
        line, column = _place(text[: bad.start()])
        raise error_class(f"{name}:{line}:{column}: control character U+{ord(bad.group()):04X}")
    reader = _Reader(text, name, error_class)
    try:
        return reader.document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        context = f" {error.context}" if error.context else ""
        raise error_class(f"{reader.at(mark)}: {error.problem}{context}") from error
    except yaml.YAMLError as error:
        raise error_class(f"{name}:1:1: {error}") from error


def parse_nodes(text: str) -> Any:
    """The tree of PyYAML nodes, with start and end of each, of a text that `parse_yaml` has accepted."""
    return yaml.compose(text, Loader=_LOADER)


def parse_scalar(text: str) -> str | int | float | bool | None:
    """What an unquoted YAML scalar means here.

    Raises:
        ValueError: a number beyond what a float or 64 digits hold.
    """
    if text in _WORDS:
        return _WORDS[text]
    if not _FLOAT.fullmatch(text):
        return text
    if len(text) > MAX_DIGITS:
        raise ValueError(f"number of more than {MAX_DIGITS} digits (quote it if it is a text)")
    if _INT.fullmatch(text):
        return int(text)
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError("number out of range")
    return number


def _place(before: str) -> tuple[int, int]:
    return before.count("\n") + 1, len(before) - before.rfind("\n")


class _Reader:
    """Builds values from parser events, so that depth, anchors and tags are refused before anything is expanded."""

    def __init__(self, text: str, name: str, error_class: type[ConstitutionalError]) -> None:
        self.name = name
        self.error_class = error_class
        self.marks: Marks = {}
        self.events: Iterator[Any] = iter(yaml.parse(text, Loader=_LOADER))

    def document(self) -> tuple[Any, Marks]:
        next(self.events)  # stream start
        first = next(self.events)
        if isinstance(first, yaml.StreamEndEvent):
            self.refuse(first, "empty document")
        root = next(self.events)
        if isinstance(root, yaml.ScalarEvent) and root.value == "" and root.implicit[0]:
            self.refuse(root, "empty document")
        self.marks[()] = self.at(root.start_mark)
        value = self.value(root, (), 1)
        next(self.events)  # document end
        after = next(self.events)
        if not isinstance(after, yaml.StreamEndEvent):
            self.refuse(after, "a second document in one file")
        return value, self.marks

    def value(self, event: Any, loc: Loc, depth: int) -> Any:
        self.plain(event)
        if isinstance(event, yaml.ScalarEvent):
            return self.scalar(event)
        if depth > MAX_DEPTH:
            self.refuse(event, f"nested deeper than {MAX_DEPTH} levels")
        return self.sequence(loc, depth) if isinstance(event, yaml.SequenceStartEvent) else self.mapping(loc, depth)

    def plain(self, event: Any) -> None:
        if isinstance(event, yaml.AliasEvent):
            self.refuse(event, f"alias '*{event.anchor}': aliases are not allowed, write the value out")
        if event.anchor is not None:
            self.refuse(event, f"anchor '&{event.anchor}': anchors are not allowed")
        if event.tag is not None:
            self.refuse(event, f"tag '{event.tag}': tags are not allowed")

    def scalar(self, event: Any) -> Any:
        if not event.implicit[0]:  # quoted or a block: always text
            return event.value
        try:
            return parse_scalar(event.value)
        except ValueError as error:
            self.refuse(event, str(error))

    def sequence(self, loc: Loc, depth: int) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            here = (*loc, len(items))
            self.marks[here] = self.at(event.start_mark)
            items.append(self.value(event, here, depth + 1))
        return items

    def mapping(self, loc: Loc, depth: int) -> dict[str, Any]:
        items: dict[str, Any] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            self.plain(event)
            if not isinstance(event, yaml.ScalarEvent):
                self.refuse(event, "a key must be a text")
            key: str = event.value
            here = (*loc, key)
            if key == "<<" and event.implicit[0]:
                self.refuse(event, "merge keys ('<<') are not allowed")
            if key in items:
                self.refuse(event, f"duplicate key '{key}' (first at {self.marks[here]})")
            self.marks[here] = self.at(event.start_mark)
            items[key] = self.value(next(self.events), here, depth + 1)
        return items

    def at(self, mark: Any) -> str:
        return f"{self.name}:{mark.line + 1}:{mark.column + 1}" if mark else f"{self.name}:1:1"

    def refuse(self, event: Any, message: str) -> NoReturn:
        raise self.error_class(one_line(f"{self.at(event.start_mark)}: {message}"))
