"""The comparisons behind a conflict: those on which two principles, or the two orders of one, differ most."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from constitutional.audit.measures.cells import sides
from constitutional.audit.measures.corpus import comparison_rows
from constitutional.audit.measures.records import Audit, Panel
from constitutional.audit.measures.table import Table
from constitutional.errors import RunError, one_line
from constitutional.records import Comparison, Record
from constitutional.statistics import Rate, rate

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MOST = 10
"""Comparisons shown of one cell."""
WIDEST = 16
"""Principles of a panel that are set against one another; of more, those that conflict most."""


class Contest(Record):
    """One comparison and what each side of the contest says of it: p that a is better.

    Between two principles, `p` and `against` are their opinions; within one, what it said when a was read first, and
    when b was. `gap` is |p - against|.
    """

    comparison_id: str
    p: float
    against: float
    gap: float


class Contested(Record):
    """A cell of a panel's matrix: `one` against `other`, or, where they are the same, against its own other order.

    `rows` are the comparisons with the largest gaps, of those on which the two prefer different answers.
    """

    panel: int
    """Place in `Audit.panels`."""
    one: str
    other: str
    differ: Rate
    """Comparisons on which the two prefer different answers, of those on which both prefer one."""
    rows: tuple[Contest, ...]


def contested(table: Table, audit: Audit) -> tuple[Contested, ...]:
    """Every cell of every panel that has something to compare, in the order of the panel's principles."""
    found: list[Contested] = []
    ids = table.corpus.reader.comparisons.values
    names = {place: ids[number] for number, place in table.corpus.place.items()}
    for number, panel in enumerate(audit.panels):
        subjects = _subjects(table, panel)
        for k, one in enumerate(subjects):
            for other in list(subjects)[k:]:
                comparison, p, against = _shared(table, subjects[one], subjects[other])
                product = sides(p) * sides(against)
                sided, differ = product != 0, product < 0
                if sided.any():
                    rows = _widest(names, comparison[differ], p[differ], against[differ])
                    share = rate(int(differ.sum()), int(sided.sum()))
                    found.append(Contested(panel=number, one=one, other=other, differ=share, rows=rows))
    return tuple(found)


def shown_principles(panel: Panel) -> tuple[str, ...]:
    """The principles of a panel, at most `WIDEST`: those in the largest conflicts, in the panel's order."""
    if len(panel.principles) <= WIDEST:
        return panel.principles
    worst = dict.fromkeys(panel.principles, 0.0)
    for pair in panel.pairs:
        for ref in (pair.one, pair.other):
            worst[ref] = max(worst[ref], pair.conflict.value or 0.0)
    kept = sorted(panel.principles, key=lambda ref: -worst[ref])[:WIDEST]
    return tuple(ref for ref in panel.principles if ref in kept)


def contested_comparisons(table: Table, cells: Iterable[Contested]) -> dict[str, Comparison]:
    """The comparisons that the cells name, by id, in the order they are first named.

    Raises:
        RunError: a file of a run is damaged.
    """
    wanted = dict.fromkeys(row.comparison_id for cell in cells for row in cell.rows)
    found: dict[str, Comparison] = {}
    for view in table.corpus.views:
        for _, path, number, row in comparison_rows(view):
            record: Any = row.get("comparison", row)
            if isinstance(record, Mapping) and (key := record.get("id")) in wanted and key not in found:
                try:
                    found[str(key)] = Comparison.model_validate(record)
                except ValueError as error:
                    raise RunError(f"{path}:{number}: damaged line: {one_line(str(error))}") from error
    return {key: found[key] for key in wanted if key in found}


def _subjects(table: Table, panel: Panel) -> dict[str, int]:
    """The subject of each principle shown: of those with its name, the one judged most often."""
    import numpy as np

    size = np.bincount(table.cells.subject, minlength=len(table.subjects))
    own = (panel.judge, panel.mode, panel.template_digest)
    found: dict[str, int] = {}
    for ref in shown_principles(panel):
        mine = [s for s, key in enumerate(table.subjects) if key[0] == ref and (key[2:] == own or key[3] == "check")]
        found[ref] = max(sorted(mine, key=lambda s: table.subjects[s]), key=lambda s: int(size[s]))
    return found


def _shared(table: Table, one: int, other: int) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Comparisons on which both subjects have an opinion, and the two; of one subject, its p in either order."""
    import numpy as np

    cells = table.cells
    i = np.flatnonzero((cells.subject == one) & np.isfinite(cells.p))
    if one == other:
        return cells.comparison[i], cells.p_ab[i], cells.p_ba[i]
    j = np.flatnonzero((cells.subject == other) & np.isfinite(cells.p))
    both, at, to = np.intersect1d(cells.comparison[i], cells.comparison[j], assume_unique=True, return_indices=True)
    return both, cells.p[i[at]], cells.p[j[to]]


def _widest(
    names: Mapping[int, str], comparison: NDArray[np.int64], p: NDArray[np.float64], against: NDArray[np.float64]
) -> tuple[Contest, ...]:
    """The `MOST` widest gaps; of equal ones, by id."""
    import numpy as np

    gaps = np.abs(p - against)
    least = np.sort(gaps)[-MOST] if len(gaps) > MOST else 0.0
    rows = [
        Contest(comparison_id=names[int(comparison[k])], p=float(p[k]), against=float(against[k]), gap=float(gaps[k]))
        for k in np.flatnonzero(gaps >= least)
    ]
    return tuple(sorted(rows, key=lambda row: (-row.gap, row.comparison_id))[:MOST])
