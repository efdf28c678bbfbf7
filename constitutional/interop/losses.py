"""What a format could not hold of a constitution: found by reading the written file back, so nothing can be missed."""

from __future__ import annotations

from collections.abc import Sequence

from constitutional.interop.documents import VERSION
from constitutional.principles import Constitution, Principle

SHOWN = 3
_DEFAULTS = {name: field.default for name, field in Constitution.model_fields.items()} | {"version": VERSION}


def not_held(constitution: Constitution, again: Constitution, left_out: dict[str, str]) -> list[str]:
    """One line for each principle left out and for each field that did not come back.

    Args:
        constitution: what was written.
        again: what a reader makes of the written file.
        left_out: principles (by id) that were not written, with the reason.
    """
    lines = [f"principle '{id}': {reason}" for id, reason in left_out.items()]
    for name in Constitution.model_fields:
        value = getattr(constitution, name)
        if name != "principles" and value not in (getattr(again, name), _DEFAULTS[name]):
            lines.append(f"{name} of the constitution: {value}")
    written = [p for p in constitution.principles if p.id not in left_out]
    in_place = list(zip(written, again.principles, strict=True))
    found = {p.id: p for p in again.principles}
    by_id = [(p, found[p.id]) for p in written] if found.keys() == {p.id for p in written} else in_place
    changes, kept = _changes(in_place), _changes(by_id)
    if _told_apart(kept) < _told_apart(changes):  # the file has the ids, in another order
        lines.append("the order of the principles")
        changes = kept
    for name in Principle.model_fields:
        ids = [id for id, field in changes if field == name]
        if ids:
            lines.append(f"{name} of {len(ids)} principles: {_some(ids)}")
    return lines


def _changes(pairs: Sequence[tuple[Principle, Principle]]) -> list[tuple[str, str]]:
    """Ids and fields in which the principles of a pair differ."""
    names = Principle.model_fields
    return [(a.id, name) for a, b in pairs for name in names if getattr(a, name) != getattr(b, name)]


def _told_apart(changes: Sequence[tuple[str, str]]) -> int:
    """How little a pairing fits: a format that counts its principles anew changes names, but no text."""
    return sum(name not in ("id", "title") for _, name in changes)


def _some(ids: Sequence[str]) -> str:
    more = len(ids) - SHOWN
    return ", ".join(ids[:SHOWN]) + (f" and {more} more" if more > 0 else "")
