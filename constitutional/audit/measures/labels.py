"""Labels from people and authors: which answer of a comparison is the better one, for all principles or for one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from constitutional.errors import DataError, nearest
from constitutional.rows import read_rows

SIDES = {"a": 1, "b": -1}


@dataclass
class Labels:
    """Labels by the ledger's number of the comparison. A source says one thing of a comparison and principle."""

    said: dict[tuple[int, str | None], dict[str, int]] = field(default_factory=dict)
    """By comparison and principle (None: all): source to side, 1 is `a`, -1 is `b`, 0 is neither."""
    unplaced: Counter[str] = field(default_factory=Counter)
    """Labels of comparisons that no ledger has a judgment on, by source."""

    def add(self, comparison: int, principle: str | None, side: int, source: str) -> None:
        """Adds a label; of the same source the first stands."""
        self.said.setdefault((comparison, principle), {}).setdefault(source, side)

    def side(self, comparison: int, principle: str) -> int | None:
        """What most sources say, those on this principle before those on all; None unlabelled, 0 undecided."""
        found = self.said.get((comparison, principle)) or self.said.get((comparison, None))
        if not found:
            return None
        total = sum(found.values())
        return (total > 0) - (total < 0)

    def read_file(self, path: Path, comparisons: Mapping[str, int]) -> None:
        """Adds the labels of a JSON-lines file.

        Raises:
            DataError: the file cannot be read, or a line is no label; named as file:line.
        """
        for place, row in read_rows(str(path)):
            comparison, preferred, source = row.get("comparison_id"), row.get("preferred"), row.get("source", path.stem)
            if not isinstance(comparison, str) or not isinstance(source, str):
                raise DataError(f"{place}: a label has a comparison_id and a source, both texts")
            if preferred not in (*SIDES, "tie"):
                hint = nearest(preferred, (*SIDES, "tie")) if isinstance(preferred, str) else ""
                raise DataError(f"{place}: preferred: expected a, b or tie (got {preferred!a}){hint}")
            number = comparisons.get(comparison)
            if number is None:
                self.unplaced[source] += 1
            else:
                self.add(number, None, SIDES.get(preferred, 0), source)
