"""Ids from the names that files give their principles, and back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from constitutional.principles import Principle

MAX_NAME = 80


def slug(name: str) -> str:
    """An id like a name: lower case, hyphens for what an id may not hold."""
    return re.sub(r"[^a-z0-9_.-]+", "-", name.lower())[:MAX_NAME].strip("-._") or "principle"


def ids_of(names: Iterable[str]) -> list[str]:
    """An id for each name, a number added where two would be the same."""
    found: dict[str, None] = {}
    for name in names:
        candidate, number = slug(name), 1
        while candidate in found:
            number += 1
            candidate = f"{slug(name)[: MAX_NAME - 6]}-{number}"
        found[candidate] = None
    return list(found)


def names_of(principles: Sequence[Principle]) -> list[str]:
    """The opposite of `ids_of`: the names a file had, which are the titles; the id where the title is another text."""
    titles = [principle.title for principle in principles]
    if len(set(titles)) == len(titles) and ids_of(titles) == [principle.id for principle in principles]:
        return titles
    return [principle.id for principle in principles]
