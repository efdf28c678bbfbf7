"""Writes a constitution in our own format, so that `load_constitution` gives back an equal one.

Written by hand, not by PyYAML: the reader is stricter than YAML 1.1, a long text should be a block that an author can
edit, and a text must come back byte for byte whatever is in it. Fields that have their default are not written.
"""

from __future__ import annotations

import json
import re
from typing import Any

from constitutional.principles import Constitution
from constitutional.yamlfile import parse_scalar

WIDTH = 100
"""Longer texts are blocks, folded at this column."""

_PLAIN = re.compile(r"[A-Za-z0-9](?:[\w .,;?!'()/@+-]*[\w.?!)])?", re.ASCII)
# what YAML reads as an end of line, as a mark of byte order, or not at all; JSON would leave it as it is
_ESCAPED = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
_NO_BLOCK = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
_BREAK = re.compile("(?<! ) (?! )")


def to_yaml(constitution: Constitution) -> str:
    """The text of a constitution file."""
    fields = constitution.model_dump(mode="json", exclude_defaults=True)
    return "\n".join(_mapping(fields, 0)) + "\n"


def _mapping(fields: dict[str, Any], column: int) -> list[str]:
    lines = []
    for key, value in fields.items():
        start = f"{' ' * column}{key if _is_plain(key) else _quoted(key)}:"
        if isinstance(value, dict):
            lines += [start, *_mapping(value, column + 2)]
        elif isinstance(value, list):
            lines += _sequence(start, value, column + 2)
        else:
            lines += _scalar(start, value, column)
    return lines


def _sequence(start: str, items: list[Any], column: int) -> list[str]:
    if not items:
        return [f"{start} []"]
    if all(isinstance(item, str) and _is_plain(item) and "," not in item for item in items):
        flow = f"{start} [{', '.join(items)}]"
        if len(flow) <= WIDTH:
            return [flow]
    lines = [start]
    dash = f"{' ' * column}-"
    for index, item in enumerate(items):
        if isinstance(item, dict):
            if index and start == "principles:":
                lines.append("")
            first, *rest = _mapping(item, column + 2)
            lines += [f"{dash} {first.lstrip(' ')}", *rest]
        else:
            lines += _scalar(dash, item, column)
    return lines


def _scalar(start: str, value: str | int | float | bool, column: int) -> list[str]:
    """A scalar after `start` (a key or a dash); a block's lines stand two columns in from `column`."""
    if not isinstance(value, str):
        return [f"{start} {json.dumps(value)}"]
    pad = " " * (column + 2)
    if "\n" in value and _fits_block(value):
        keep = "" if value.endswith("\n") else "-"
        indent = "2" if value[0] in " \n" else ""  # a reader cannot guess the column from such a line
        return [
            f"{start} |{indent}{keep}",
            *(pad + line if line else "" for line in value.removesuffix("\n").split("\n")),
        ]
    if len(start) + len(value) > WIDTH and value == value.strip(" ") and _fits_block(value):
        return [f"{start} >-", *(pad + line for line in _folded(value, WIDTH - len(pad)))]
    return [f"{start} {value if _is_plain(value) else _quoted(value)}"]


def _fits_block(text: str) -> bool:
    """Blank ends and lines that end in spaces are safe only in quotes: editors, and later blank lines, change them."""
    lines = text.removesuffix("\n").split("\n")
    return (
        bool(text.strip())
        and lines[-1] != ""
        and not any(x.endswith(" ") for x in lines)
        and not _NO_BLOCK.search(text)
    )


def _folded(text: str, width: int) -> list[str]:
    """Lines broken at single spaces, which folding gives back."""
    lines: list[str] = []
    for word in _BREAK.split(text):
        if lines and len(lines[-1]) + 1 + len(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _is_plain(text: str) -> bool:
    try:
        return bool(_PLAIN.fullmatch(text)) and parse_scalar(text) == text
    except ValueError:  # a number too long for the reader, which is a text here
        return False


def _quoted(text: str) -> str:
    """A JSON string, which is a YAML one once the characters that only YAML minds are escaped."""
    return _ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(text, ensure_ascii=False))
