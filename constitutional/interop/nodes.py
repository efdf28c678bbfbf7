"""JSON walked with the place of every value at hand: a wrong file stops at `file: path.to.the.value: message`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from constitutional.errors import ConstitutionError, one_line
from constitutional.interop.documents import Source


@dataclass(frozen=True)
class Node:
    """A JSON value and where it stands."""

    value: Any
    file: str
    path: tuple[str, ...] = ()

    def below(self, key: str, value: Any) -> Node:
        """A value inside this one."""
        return Node(value, self.file, (*self.path, key))

    def wrong(self, message: str) -> ConstitutionError:
        """The error to raise for this value."""
        place = f"{self.file}: {'.'.join(self.path)}" if self.path else self.file
        return ConstitutionError(one_line(f"{place}: {message}"))


def parse_json(source: Source) -> Node:
    """The root of a JSON file. Duplicate keys, NaN and halves of surrogate pairs are refused, not swallowed."""

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(items)
        if len(found) < len(items):
            names = [name for name, _ in items]
            twice = next(name for name in names if names.count(name) > 1)
            raise ConstitutionError(one_line(f"{source.name}: duplicate key '{twice}'"))
        return found

    def constant(name: str) -> None:
        raise ConstitutionError(f"{source.name}: {name} is no JSON number")

    try:
        value = json.loads(source.text, object_pairs_hook=pairs, parse_constant=constant)
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as error:
        raise ConstitutionError(
            f"{source.name}:{error.lineno}: broken JSON at column {error.colno}: {error.msg}"
        ) from error
    except UnicodeEncodeError as error:
        raise ConstitutionError(f"{source.name}: half of a surrogate pair, which is no text") from error
    except ConstitutionError:
        raise
    except (RecursionError, ValueError) as error:
        raise ConstitutionError(f"{source.name}: broken JSON: nested too deeply or a number too long") from error
    return Node(value, source.name)


def members(node: Node) -> dict[str, Node]:
    """The values of a JSON object by key."""
    if not isinstance(node.value, dict):
        raise node.wrong(f"expected a JSON object (got {_kind(node.value)})")
    return {key: node.below(key, value) for key, value in node.value.items()}


def member(node: Node, key: str) -> Node:
    """One value of a JSON object, which must be there."""
    found = members(node)
    if key not in found:
        raise node.wrong(f"missing key '{key}'")
    return found[key]


def elements(node: Node) -> list[Node]:
    """The items of a JSON list."""
    if not isinstance(node.value, list):
        raise node.wrong(f"expected a list (got {_kind(node.value)})")
    return [node.below(str(index), value) for index, value in enumerate(node.value)]


def text(node: Node, before: str = "", after: str = "") -> str:
    """A text that is not blank, without the fixed wording around it.

    Raises:
        ConstitutionError: no text, blank, or the fixed wording is not there.
    """
    value = node.value
    if not isinstance(value, str):
        raise node.wrong(f"expected a text (got {_kind(value)})")
    if not (value.startswith(before) and value.endswith(after) and len(value) >= len(before) + len(after)):
        raise node.wrong(f"expected a text that begins with {before!r} and ends with {after!r}")
    inside = value[len(before) : len(value) - len(after)]
    if not inside.strip():
        raise node.wrong("empty text")
    return inside


def other_keys(nodes: Iterable[Node], known: Iterable[str], what: str) -> list[str]:
    """What `lost` says of keys that no reader looks at: one line a key, with how many of `what` have it."""
    counts: dict[str, int] = {}
    for node in nodes:
        for key in members(node).keys() - set(known):
            counts[key] = counts.get(key, 0) + 1
    return [f"key '{key}' of {number} {what}" for key, number in sorted(counts.items())]


def to_json(value: object) -> str:
    """JSON as people read it."""
    return json.dumps(value, ensure_ascii=False, indent=2) + "\n"


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
