"""The figures every principle and every slice has: outcomes, p, decisiveness, orders, position."""

from __future__ import annotations

from typing import TYPE_CHECKING

from constitutional.audit.measures.columns import OUTCOMES
from constitutional.audit.measures.records import Figures
from constitutional.audit.measures.resample import Bootstrap, Statistic, estimate, sums_by
from constitutional.audit.measures.table import EQUAL_LENGTH, Table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_BOUNDS = {
    "mean_p": (0.0, 1.0),
    "spread_p": (0.0, float("inf")),
    "decisiveness": (0.0, 1.0),
    "order_consistency": (0.0, 1.0),
    "first_position": (0.0, 1.0),
    "equal_length": (0.0, 1.0),
    "mean_mass": (0.0, 1.0),
}
_OPINIONS, _FIRSTS, _EQUAL, _MASSES = 0, 5, 7, 9
_COUNTED = (_OPINIONS, _OPINIONS, _OPINIONS, _OPINIONS, _FIRSTS, _EQUAL, _MASSES)
"""The column that counts the observations of each figure."""


def figures(
    table: Table, rows: NDArray[np.int64], code: NDArray[np.int64], codes: int, bootstrap: Bootstrap
) -> list[Figures]:
    """The figures of the rows of each code from 0 to `codes` - 1; a row may stand in several."""
    import numpy as np

    outcomes = np.zeros((codes, len(OUTCOMES)), dtype=np.int64)
    np.add.at(outcomes, code, table.outcomes[rows])
    one_order = np.isfinite(table.cells.p_ab[rows]) ^ np.isfinite(table.cells.p_ba[rows])
    lonely = np.bincount(code, weights=one_order, minlength=codes)
    counts = np.bincount(code, minlength=codes)
    groups = sums_by(table.prompt[rows], code, codes, _columns(table, rows))
    draws = bootstrap.replicate(groups, _figures)
    found = []
    for i, (group, drawn) in enumerate(zip(groups, draws, strict=True)):
        (values,) = _figures(group.total)
        made = {
            name: estimate(
                float(values[k]),
                int(group.values[:, _COUNTED[k]].sum()),
                int(np.count_nonzero(group.values[:, _COUNTED[k]])),
                drawn[:, k],
                *_BOUNDS[name],
            )
            for k, name in enumerate(_BOUNDS)
        }
        found.append(
            Figures(
                judgments=int(outcomes[i].sum()),
                outcomes={name: int(n) for name, n in zip(OUTCOMES, outcomes[i], strict=True)},
                comparisons=int(counts[i]),
                one_order=int(lonely[i]),
                opinions=made["mean_p"].n,
                **made,
            )
        )
    return found


def _columns(table: Table, rows: NDArray[np.int64]) -> list[NDArray[np.float64]]:
    import numpy as np

    p = table.cells.p[rows]
    given = np.isfinite(p)
    p = np.where(given, p, 0.0)
    equal = given & (np.abs(table.log_ratio[rows]) <= EQUAL_LENGTH)
    consistent = table.cells.consistent[rows]
    first, firsts = table.firsts
    mass, masses = table.masses
    spread = np.where(given, p - 0.5, 0.0)  # about one half, so that the squares lose nothing
    columns = (
        given,
        spread,
        spread**2,
        2 * np.abs(spread),
        consistent,
        firsts[rows],
        first[rows],
        equal,
        equal & consistent,
        masses[rows],
        mass[rows],
    )
    return [np.asarray(column, dtype=np.float64) for column in columns]


def _share(top: NDArray[np.float64], bottom: NDArray[np.float64]) -> NDArray[np.float64]:
    import numpy as np

    found: NDArray[np.float64] = np.divide(top, bottom, out=np.full(len(top), np.nan), where=bottom > 0)
    return found


def _totals(t: NDArray[np.float64]) -> NDArray[np.float64]:
    """From totals to the figures, in the order of `_BOUNDS`."""
    import numpy as np

    mean = _share(t[:, 1], t[:, 0])
    variance = np.maximum(_share(t[:, 2], t[:, 0]) - mean**2, 0.0)
    return np.stack(
        [
            mean + 0.5,
            np.sqrt(variance),
            _share(t[:, 3], t[:, 0]),
            _share(t[:, 4], t[:, 0]),
            _share(t[:, 6], t[:, 5]),
            _share(t[:, 8], t[:, 7]),
            _share(t[:, 10], t[:, 9]),
        ],
        axis=1,
    )


_figures: Statistic = _totals
