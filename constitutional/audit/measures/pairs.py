"""Principles against one another: who says the same, who contradicts whom."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from constitutional.audit.measures.records import PrinciplePair
from constitutional.audit.measures.resample import Bootstrap, Sums, estimate, sums_by
from constitutional.audit.measures.table import Table
from constitutional.statistics.similarity import redundancy_clusters

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

REDUNDANT_FROM = 0.8
_BATCH = 64  # pairs whose sums are held at a time


def principle_pairs(table: Table, subjects: Sequence[int], bootstrap: Bootstrap) -> tuple[PrinciplePair, ...]:
    """Every two subjects that share a comparison on which both have an opinion."""
    found: list[PrinciplePair] = []
    batch: list[tuple[int, int, Sums]] = []
    for item in _shared(table, subjects):
        batch.append(item)
        if len(batch) == _BATCH:
            found += _measured(table, batch, bootstrap)
            batch = []
    return (*found, *_measured(table, batch, bootstrap))


def clusters(refs: Sequence[str], pairs: Sequence[PrinciplePair]) -> tuple[tuple[str, ...], ...]:
    """Groups of principles each two of which correlate at least `REDUNDANT_FROM`."""
    import numpy as np

    place = {ref: i for i, ref in enumerate(refs)}
    matrix = np.full((len(refs), len(refs)), np.nan)
    for pair in pairs:
        if pair.correlation.value is not None:
            i, j = place[pair.one], place[pair.other]
            matrix[i, j] = matrix[j, i] = pair.correlation.value
    linked = np.flatnonzero(np.nanmax(matrix, axis=1, initial=-1.0) >= REDUNDANT_FROM)  # the rest can join nothing
    groups = redundancy_clusters(matrix[np.ix_(linked, linked)], REDUNDANT_FROM)
    return tuple(tuple(refs[linked[i]] for i in group) for group in groups)


def _shared(table: Table, subjects: Sequence[int]) -> Iterator[tuple[int, int, Sums]]:
    import numpy as np

    given = np.isfinite(table.cells.p)
    rows = {s: np.flatnonzero((table.cells.subject == s) & given) for s in subjects}
    for k, one in enumerate(subjects):
        for other in subjects[k + 1 :]:
            _, i, j = np.intersect1d(
                table.cells.comparison[rows[one]],
                table.cells.comparison[rows[other]],
                assume_unique=True,
                return_indices=True,
            )
            if len(i):
                first, second = rows[one][i], rows[other][j]
                x, y = table.cells.p[first] - 0.5, table.cells.p[second] - 0.5
                sides = table.cells.side[first] * table.cells.side[second]
                columns = [np.ones_like(x), x, y, x * x, y * y, x * y, (sides != 0) * 1.0, (sides < 0) * 1.0]
                (sums,) = sums_by(table.prompt[first], np.zeros(len(first), dtype=np.int64), 1, columns)
                yield one, other, sums


def _measured(table: Table, batch: Sequence[tuple[int, int, Sums]], bootstrap: Bootstrap) -> Iterator[PrinciplePair]:
    import numpy as np

    draws = bootstrap.replicate([sums for _, _, sums in batch], _figures)
    for (one, other, sums), drawn in zip(batch, draws, strict=True):
        total, prompts = sums.total[0], len(sums.prompts)
        correlation, conflict = _figures(sums.total)[0]
        sided = int(np.count_nonzero(sums.values[:, 6]))
        yield PrinciplePair(
            one=table.subjects[one][0],
            other=table.subjects[other][0],
            correlation=estimate(float(correlation), int(total[0]), prompts, drawn[:, 0], low=-1.0),
            conflict=estimate(float(conflict), int(total[6]), sided, drawn[:, 1]),
        )


def _figures(t: NDArray[np.float64]) -> NDArray[np.float64]:
    """Correlation and conflict from sums; NaN where one of the two does not vary, or none has two sides."""
    import numpy as np

    n, x, y, xx, yy, xy, sided, against = t.T
    with np.errstate(invalid="ignore", divide="ignore"):
        vx, vy = xx / n - (x / n) ** 2, yy / n - (y / n) ** 2
        varies = (vx > 1e-12) & (vy > 1e-12)
        correlation = np.where(varies, (xy / n - x * y / n**2) / np.sqrt(np.where(varies, vx * vy, 1.0)), np.nan)
        return np.stack([np.clip(correlation, -1.0, 1.0), against / sided], axis=1)
