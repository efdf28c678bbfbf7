"""What composition joins: principles and settings with the places that gave them, and how their cross-references fare.

Declared tags add up: a file's own words for a tag win over those of the files it extends. What is removed takes the
references to it along (an entry of `conflicts`, a tag nothing else carries); each is told as a note.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from constitutional.principles import Principle
from constitutional.validation import Loc, Marks


@dataclass(frozen=True)
class Part:
    """A principle or a setting, with its places by their paths from it."""

    value: Any
    marks: Marks


def joined_tags(bases: Sequence[Part], own: Part | None) -> Part:
    """The tags that extended files and the file itself declare, later words for a tag over earlier ones."""
    tags: dict[str, str] = {}
    marks: Marks = {}
    for part in [*bases, *([own] if own else [])]:
        tags |= part.value
        marks |= part.marks
    return Part(tags, marks)


def tag_problems(bases: Sequence[Part], own: Part | None) -> Iterator[str]:
    """Two extended files that mean different things by one tag, where the file itself does not say what it means."""
    first: dict[str, tuple[str, str]] = {}
    for part in bases:
        for tag, text in part.value.items():
            place = part.marks[(tag,)]
            known, other = first.setdefault(tag, (text, place))
            if known != text and not (own and tag in own.value):
                said = f"tags.{tag}: differs from {other}"
                yield f"{place}: {said}, and a file that extends both must say which it shall be"


def without_gone_tags(
    tags: Part, own: Part | None, parts: Sequence[Part], seen: Sequence[Principle], removed: Mapping[str, str]
) -> tuple[Part, list[str]]:
    """The tags without those that no principle carries any more, because the ones that did were removed; and notes.

    Args:
        tags: all that are declared.
        own: those the outermost file declares; it has asked for them, so lint shall miss them.
        parts: the principles that are left.
        seen: every principle of the files, removed ones too.
        removed: where each id was removed.
    """
    carried = {tag for part in parts for tag in part.value.tags}
    notes, gone = [], set()
    for tag in tags.value:
        carriers = [p.id for p in seen if tag in p.tags and p.id in removed]
        if tag in carried or not carriers or (own and tag in own.value):
            continue
        gone.add(tag)
        ids = dict.fromkeys(carriers)
        places = ", ".join(f"'{name}' was removed at {removed[name]}" for name in ids)
        notes.append(f"{tags.marks[(tag,)]}: tags.{tag}: left out, no principle is left that carries it ({places})")
    marks = {loc: place for loc, place in tags.marks.items() if not loc or loc[0] not in gone}
    return Part({tag: text for tag, text in tags.value.items() if tag not in gone}, marks), notes


def without_gone_conflicts(part: Part, ids: set[str], removed: Mapping[str, str]) -> tuple[Part, list[str]]:
    """The principle without the conflicts it had with principles that were removed; and notes."""
    principle: Principle = part.value
    gone = {index for index, name in enumerate(principle.conflicts) if name not in ids and name in removed}
    if not gone:
        return part, []
    kept = [index for index in range(len(principle.conflicts)) if index not in gone]
    notes = []
    for index in sorted(gone):
        name, place = principle.conflicts[index], part.marks["conflicts", index]
        notes.append(f"{place}: '{principle.id}': conflict with '{name}' left out: removed at {removed[name]}")
    marks = {loc: place for loc, place in part.marks.items() if len(loc) < 2 or loc[0] != "conflicts"}
    for new, old in enumerate(kept):
        here: Loc = ("conflicts", new)
        marks[here] = part.marks["conflicts", old]
    conflicts = tuple(principle.conflicts[index] for index in kept)
    return Part(principle.model_copy(update={"conflicts": conflicts}), marks), notes
