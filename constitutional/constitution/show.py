"""A composed constitution as one YAML text, with a comment that says which file and line gave each field.

The text reads back as the same constitution. Fields that no file gave have their defaults and are left out. What was
left out because what it names was removed stands in a comment at the top.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterator
from typing import Any

import yaml

from constitutional.constitution.compose import Composed
from constitutional.errors import one_line
from constitutional.principles import Constitution, Principle
from constitutional.validation import Loc, Marks

WIDTH = 88

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*(?: [A-Za-z0-9_./-]+)*|\d+\.\d+\.\d+", re.ASCII)
_WORDS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}
"""Texts to us, most of them, and yet something else to other YAML readers."""


def show(composed: Composed) -> str:
    """The constitution as YAML, each field with the place that gave it."""
    files = [str(composed.path), *(str(file.path) for file in composed.extended)]
    lines = [f"# {composed.constitution.ref} of {', '.join(map(one_line, files))}"]
    lines += [f"# {note}" for note in composed.notes]
    data = composed.constitution.model_dump(mode="json")
    for name in Constitution.model_fields:
        if name != "principles" and (name,) in composed.marks:
            lines += _field("", name, data[name], composed.marks, (name,))
    lines.append("principles:")
    for index, principle in enumerate(data["principles"]):
        loc: Loc = ("principles", index)
        given = [name for name in Principle.model_fields if (*loc, name) in composed.marks]
        fields = [_field("    ", name, principle[name], composed.marks, (*loc, name)) for name in given]
        rows = [line for field in fields for line in field]
        lines += [f"  - {rows[0].removeprefix('    ')}", *rows[1:]]
    return "\n".join(lines) + "\n"


def quoted(value: Any) -> str:
    """A scalar, or a list or mapping of them, as YAML on one line; text that YAML could misread is quoted."""
    if isinstance(value, list):
        return f"[{', '.join(map(quoted, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{quoted(key)}: {quoted(item)}" for key, item in value.items()) + "}"
    if not isinstance(value, str):
        return "null" if value is None else str(value).lower()
    if _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    # what turns or hides text on a terminal is written as its number
    seen = value.replace("\n", " ").isprintable()
    return str(yaml.safe_dump(value, default_style='"', allow_unicode=seen, width=math.inf)).rstrip("\n")


def _field(indent: str, name: str, value: Any, marks: Marks, loc: Loc) -> list[str]:
    comment = f"  # {one_line(marks[loc])}"
    if isinstance(value, str) and len(value) > WIDTH and value.isprintable() and value == " ".join(value.split()):
        wrapped = textwrap.wrap(value, WIDTH, break_long_words=False, break_on_hyphens=False)
        return [f"{indent}{name}: >-{comment}", *(f"{indent}  {line}" for line in wrapped)]
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [f"{indent}{name}:{comment}", *(line for item in value for line in _item(indent + "  ", item))]
    if isinstance(value, dict) and value:
        rows = [(key, one_line(marks.get((*loc, key), marks[loc]))) for key in value]
        return [
            f"{indent}{name}:",
            *(f"{indent}  {quoted(key)}: {quoted(value[key])}  # {place}" for key, place in rows),
        ]
    return [f"{indent}{name}: {quoted(value)}{comment}"]


def _item(indent: str, item: dict[str, Any]) -> Iterator[str]:
    for index, (name, value) in enumerate(item.items()):
        yield f"{indent}{'  ' if index else '- '}{name}: {quoted(value)}"
