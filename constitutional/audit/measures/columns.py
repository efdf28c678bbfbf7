"""Judgments as columns: one array a field, texts as numbers into a list of their values."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, get_args

from constitutional.errors import LedgerError
from constitutional.records import Outcome

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
FAILED: tuple[Outcome, ...] = ("refused", "invalid", "error")
"""Outcomes of judgments that should have said something and did not."""

_NUMBER = {name: i for i, name in enumerate(OUTCOMES)}


@dataclass
class Texts:
    """A vocabulary that grows: each text gets the next number."""

    numbers: dict[str, int] = field(default_factory=dict)

    def number(self, text: str) -> int:
        """The number of a text, a new one where it was not seen before."""
        return self.numbers.setdefault(text, len(self.numbers))

    @property
    def values(self) -> list[str]:
        """The texts, by number."""
        return list(self.numbers)

    def __len__(self) -> int:
        return len(self.numbers)


@dataclass(frozen=True)
class Judgments:
    """Judgments as arrays of one length. `subject` numbers (principle, digest, judge, mode, template)."""

    id: NDArray[np.uint64]
    comparison: NDArray[np.int32]
    subject: NDArray[np.int32]
    first_a: NDArray[np.bool_]
    """Order `ab`."""
    outcome: NDArray[np.int8]
    """Place in `OUTCOMES`."""
    p: NDArray[np.float64]
    """NaN where there is none."""
    mass: NDArray[np.float64]
    prompt_tokens: NDArray[np.int64]
    completion_tokens: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.p)

    def take(self, rows: NDArray[Any]) -> Judgments:
        """Some of the rows."""
        return Judgments(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def numbered(self, comparison: NDArray[np.int32], subject: NDArray[np.int32]) -> Judgments:
        """The same with other numbers of comparisons and subjects."""
        kept = {f.name: getattr(self, f.name) for f in fields(self)}
        return Judgments(**{**kept, "comparison": comparison, "subject": subject})


SubjectKey = tuple[str, str, str, str, str]
"""principle `id@version`, principle digest, judge, mode, template digest."""


class Reader:
    """Collects ledgers into columns; `comparisons` and `subjects` number what occurs in them."""

    def __init__(self) -> None:
        self.comparisons = Texts()
        self.subjects: dict[SubjectKey, int] = {}
        self._columns = {name: array(kind) for name, kind in _KINDS.items()}

    def read(self, payloads: Iterable[str], place: str) -> int:
        """Adds judgments; returns how many.

        Args:
            payloads: canonical JSON, one judgment each.
            place: the ledger, for errors.

        Raises:
            LedgerError: a payload is no judgment.
        """
        columns = self._columns
        add = [columns[name].append for name in _KINDS]
        row = 0
        for row, payload in enumerate(payloads, start=1):
            try:
                found = json.loads(payload)
                usage = found["usage"]
                key = (
                    found["principle"],
                    found["principle_digest"],
                    found["judge"],
                    found["mode"],
                    found["template_digest"],
                )
                p, mass = found["p_a"], found["mass"]
                values = (
                    int(found["id"], 16),
                    self.comparisons.number(found["comparison_id"]),
                    self.subjects.setdefault(key, len(self.subjects)),
                    found["order"] == "ab",
                    _NUMBER[found["outcome"]],
                    _NAN if p is None else p,
                    _NAN if mass is None else mass,
                    usage["prompt_tokens"],
                    usage["completion_tokens"],
                )
                for append, value in zip(add, values, strict=True):
                    append(value)
            except (ValueError, TypeError, KeyError, RecursionError, OverflowError) as error:
                reason = " ".join(str(error).split())
                raise LedgerError(f"{place}: row {row} is damaged, `verify` lists all: {reason!a}") from error
        return row

    def judgments(self) -> tuple[Judgments, int]:
        """All rows read, each judgment once; and how many were there again in another ledger."""
        import numpy as np

        found = Judgments(**{name: np.array(self._columns[name], dtype=kind) for name, kind in _TYPES.items()})
        _, first = np.unique(found.id, return_index=True)
        again = len(found) - len(first)
        return (found.take(np.sort(first)) if again else found), again


_NAN = float("nan")
_KINDS = {
    "id": "Q",
    "comparison": "i",
    "subject": "i",
    "first_a": "b",
    "outcome": "b",
    "p": "d",
    "mass": "d",
    "prompt_tokens": "q",
    "completion_tokens": "q",
}
_TYPES = {
    "id": "uint64",
    "comparison": "int32",
    "subject": "int32",
    "first_a": "bool",
    "outcome": "int8",
    "p": "float64",
    "mass": "float64",
    "prompt_tokens": "int64",
    "completion_tokens": "int64",
}
