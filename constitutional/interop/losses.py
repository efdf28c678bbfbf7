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
    pairs, ordered = _pairs([p for p in constitution.principles if p.id not in left_out], again.principles)
    if not ordered:
        lines.append("the order of the principles")
    for name in Principle.model_fields:
        changed = [before.id for before, after in pairs if getattr(before, name) != getattr(after, name)]
        if changed:
            lines.append(f"{name} of {len(changed)} principles: {_some(changed)}")
    return lines


def _pairs(written: Sequence[Principle], again: Sequence[Principle]) -> tuple[list[tuple[Principle, Principle]], bool]:
    """Each principle with what came back of it: by id where the format holds ids, else by position."""
    ids = [p.id for p in written]
    if sorted(ids) == sorted(p.id for p in again):
        found = {p.id: p for p in again}
        return [(p, found[p.id]) for p in written], ids == [p.id for p in again]
    return list(zip(written, again, strict=True)), True


def _some(ids: Sequence[str]) -> str:
    more = len(ids) - SHOWN
    return ", ".join(ids[:SHOWN]) + (f" and {more} more" if more > 0 else "")
