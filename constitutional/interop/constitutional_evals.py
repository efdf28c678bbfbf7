"""Constitutions of Constitutional-Evals, schema 1.1 and the drafts without header, FORMATS.md 12.

A criterion is a text, or an object with a `comparative` text; it is a comparison request as it stands. Criteria are
called `criteria-1` and on, the drafts' guidelines `guidelines-1` and on. Reasons, scenarios and most of the header are
more than a constitution holds: an export takes them from the original file where it is given.
"""

from __future__ import annotations

import re
from typing import Any

from constitutional.interop.documents import (
    VERSION,
    Imported,
    Source,
    Written,
    constitution_of,
    fitting,
    lacking,
    principle_of,
)
from constitutional.interop.names import slug
from constitutional.interop.nodes import Node, elements, member, members, other_keys, parse_json, text, to_json
from constitutional.principles import Constitution, Principle

SCHEMA = "1.1"
LISTS = ("criteria", "guidelines")


def read(source: Source) -> Imported:
    """A Constitutional-Evals file."""
    root = parse_json(source)
    member(root, "criteria")
    header, lost = _header(root)
    entries = {name: elements(node) for name, node in members(root).items() if name in LISTS}
    principles = [
        principle_of(f"{name}-{number}", comparison_request=_criterion(node), tags=(name,))
        for name, nodes in entries.items()
        for number, node in enumerate(nodes, 1)
    ]
    objects = [node for nodes in entries.values() for node in nodes if isinstance(node.value, dict)]
    lost += other_keys([root], ("schema_version", "id", "title", "version", *LISTS), "file")
    lost += other_keys(objects, ("comparative",), "criteria")
    constitution = constitution_of(source, principles).model_copy(update=header)
    return Imported(constitution, lost=tuple(lost))


def write(constitution: Constitution, original: Source | None) -> Written:
    """A file of schema 1.1, or the original with the constitution put in."""
    chosen, left_out = fitting(constitution, lacking("comparison_request"))
    header = {"id": constitution.id, "title": constitution.title, "version": constitution.version}
    before: dict[str, Any] = {"schema_version": SCHEMA, **header}
    if original:
        root = parse_json(original)
        before = dict(root.value)
        # the header is the constitution's own where it says something else than the original
        was = read(original).constitution
        before |= {key: value for key, value in header.items() if value != getattr(was, key)}
    lists: dict[str, list[object]] = {name: [] for name in LISTS if name == "criteria" or name in before}
    for principle in chosen:
        name = _list(principle)
        lists.setdefault(name, []).append(_entry(principle, before.get(name, [])))
    whole = {**before, **lists}
    chosen.sort(key=lambda principle: list(whole).index(_list(principle)))
    return Written(to_json(whole), tuple(chosen), left_out)


def _header(root: Node) -> tuple[dict[str, str], list[str]]:
    """What the file says of itself that a constitution holds, and what of it it cannot."""
    found: dict[str, str] = {}
    lost: list[str] = []
    for key in ("id", "title", "version"):
        if key not in root.value:
            continue
        value = text(member(root, key))
        fits = {"id": slug(value) == value, "version": bool(re.fullmatch(r"\d+\.\d+\.\d+", value)), "title": True}[key]
        if fits:
            found[key] = value
        else:
            lost.append(f"{key} '{value}' (here {slug(value) if key == 'id' else VERSION})")
            found[key] = slug(value) if key == "id" else VERSION
    return found, lost


def _criterion(node: Node) -> str:
    return text(member(node, "comparative") if isinstance(node.value, dict) else node)


def _list(principle: Principle) -> str:
    return next((name for name in LISTS if name in principle.tags), LISTS[0])


def _entry(principle: Principle, old: list[Any]) -> object:
    """A criterion, in the form that the original's of the same id has."""
    position = re.fullmatch(r"(?:criteria|guidelines)-([1-9]\d{0,5})", principle.id)
    index = int(position[1]) - 1 if position else len(old)
    if index < len(old) and isinstance(old[index], dict):
        return {**old[index], "comparative": principle.comparison_request}
    return principle.comparison_request
