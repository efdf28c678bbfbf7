"""What a format could not hold of a constitution: found by reading the written file back, so nothing can be missed."""

from __future__ import annotations

from collections.abc import Sequence

from constitutional.few_shots import NO_SHOTS, FewShots
from constitutional.interop.documents import VERSION, Written
from constitutional.principles import Constitution, Principle

SHOWN = 3
_DEFAULTS = {name: field.default for name, field in Constitution.model_fields.items()} | {"version": VERSION}


def not_held(constitution: Constitution, written: Written, again: Constitution) -> list[str]:
    """One line for each principle left out and for each field that did not come back.

    Args:
        constitution: what was to be written.
        written: what a writer made of it.
        again: what a reader makes of that.
    """
    lines = [f"principle '{id}': {reason}" for id, reason in written.left_out.items()]
    for name in Constitution.model_fields:
        value = getattr(constitution, name)
        if name == "few_shots":
            lines += _lost_shots(value or NO_SHOTS, again.few_shots or NO_SHOTS)
        elif name != "principles" and value not in (getattr(again, name), _DEFAULTS[name]):
            lines.append(f"{name} of the constitution: {value}")
    if written.principles != tuple(p for p in constitution.principles if p.id not in written.left_out):
        lines.append("the order of the principles")
    pairs = list(zip(written.principles, again.principles, strict=True))
    for name in Principle.model_fields:
        ids = [before.id for before, after in pairs if getattr(before, name) != getattr(after, name)]
        if ids:
            lines.append(f"{name} of {len(ids)} principles: {_some(ids)}")
    return lines


def _lost_shots(before: FewShots, after: FewShots) -> list[str]:
    kinds = {"revision": (before.revision, after.revision), "comparison": (before.comparison, after.comparison)}
    return [f"{len(given)} few-shots of a {kind}" for kind, (given, back) in kinds.items() if given and given != back]


def _some(ids: Sequence[str]) -> str:
    more = len(ids) - SHOWN
    return ", ".join(ids[:SHOWN]) + (f" and {more} more" if more > 0 else "")
