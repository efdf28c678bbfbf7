"""Bootstrap intervals that draw whole clusters, because answers to one prompt are not independent.

numpy is imported only where it is used, as this module is imported by the whole package.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING

from constitutional.errors import DataError
from constitutional.records import Record
from constitutional.statistics.intervals import Interval, check_confidence, check_unit, score_interval

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

_BLOCK = 1_000_000  # random indices drawn at a time: bounds the bootstrap's memory to a few tens of MB


class WinRate(Record):
    """Mean outcome of paired comparisons (1 win, 0.5 tie, 0 loss) with its interval."""

    mean: float
    interval: Interval
    n: int
    ties: int


def bootstrap_mean(
    values: Sequence[float],
    clusters: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of the mean (Efron 1979; clusters: Field & Welsh 2007, section 2).

    Args:
        values: the observations.
        clusters: what each value belongs to (a prompt's id). Whole clusters are drawn, because answers to one prompt
            are not independent; each value is its own cluster when None.
        confidence: coverage in (0, 1).
        resamples: bootstrap draws.
        seed: equal arguments give equal intervals.

    Raises:
        DataError: no values, a value that is not finite, unequal lengths, or a setting out of range.
    """
    import numpy as np

    check_confidence(confidence)
    if resamples < 1:
        raise DataError(f"resamples is {resamples}: expected at least 1")
    sums, counts = _cluster_sums(values, clusters)
    rng = np.random.default_rng(seed)
    rows = max(1, _BLOCK // len(sums))
    means: list[NDArray[np.float64]] = []
    for start in range(0, resamples, rows):
        drawn = rng.integers(0, len(sums), (min(rows, resamples - start), len(sums)))
        means.append(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    low, high = np.quantile(np.concatenate(means), [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(low=float(low), high=float(high))


def win_rate(
    outcomes: Sequence[float],
    clusters: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> WinRate:
    """Mean outcome of comparisons with a bootstrap interval clustered by prompt.

    Where every cluster has the same mean (all won, say), resampling would print a width of zero; the interval is then
    the score interval with the clusters as trials. `ties` counts the outcomes that are exactly 0.5.

    Raises:
        DataError: as `bootstrap_mean`, or an outcome outside [0, 1].
    """
    check_unit(outcomes, "outcome")
    interval = bootstrap_mean(outcomes, clusters, confidence, resamples, seed)
    mean = math.fsum(outcomes) / len(outcomes)
    sums, counts = _cluster_sums(outcomes, clusters)
    rates = sums / counts
    if float(rates.max() - rates.min()) < 1e-12:
        interval = score_interval(mean, len(rates), confidence)
    return WinRate(mean=mean, interval=interval, n=len(outcomes), ties=sum(o == 0.5 for o in outcomes))


def _cluster_sums(
    values: Sequence[float], clusters: Sequence[Hashable] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum and count of the values of each cluster, in order of first appearance; two arrays of shape [clusters]."""
    import numpy as np

    array = np.asarray(values, dtype=np.float64)
    if not len(array):
        raise DataError("no values: a mean needs at least one")
    if not np.isfinite(array).all():
        raise DataError(f"value {int(np.flatnonzero(~np.isfinite(array))[0])} is not a finite number")
    if clusters is None:
        return array, np.ones_like(array)
    if len(clusters) != len(values):
        raise DataError(f"{len(values)} values but {len(clusters)} clusters")
    index: dict[Hashable, int] = {}
    member = [index.setdefault(c, len(index)) for c in clusters]
    sums, counts = np.zeros(len(index)), np.zeros(len(index))
    np.add.at(sums, member, array)
    np.add.at(counts, member, 1.0)
    return sums, counts


def cluster_codes(clusters: Sequence[Hashable] | NDArray[np.generic] | None, n: int) -> tuple[NDArray[np.intp], int]:
    """The cluster of each of `n` rows as 0, 1, 2 … in order of first appearance, and how many there are.

    Each row is its own when None.

    Raises:
        DataError: not one cluster for each row.
    """
    import numpy as np

    if clusters is None:
        return np.arange(n), n
    if len(clusters) != n:
        raise DataError(f"{n} values but {len(clusters)} clusters")
    if isinstance(clusters, np.ndarray):
        found, first, codes = np.unique(clusters, return_index=True, return_inverse=True)
        return np.argsort(np.argsort(first))[codes.reshape(n)], len(found)
    index: dict[Hashable, int] = {}
    return np.fromiter((index.setdefault(c, len(index)) for c in clusters), np.intp, n), len(index)


def cluster_bootstrap(
    values: ArrayLike,
    clusters: Sequence[Hashable] | NDArray[np.generic] | None,
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    *,
    seed: int = 0,
    draws: int = 1000,
    confidence: float = 0.95,
) -> list[Interval | None]:
    """Bootstrap intervals of any statistic that is a function of column sums, whole clusters drawn.

    Percentiles at `expanded_confidence`, as plain ones are too narrow where clusters are few.

    A row's columns are what is added up: for a mean, the value and 1; for a share of the applicable, its numerator and
    its denominator; for kappa, one indicator a cell. Rows are added up per cluster once, so that a draw costs as much
    as there are clusters, and all statistics of one call share the draws. Several principles are best given as more
    columns of one call.

    Args:
        values: array of shape [rows, columns]; a single column may be of shape [rows].
        clusters: what each row belongs to (a prompt's id); an integer array is fastest. None: each row is its own.
        statistic: from column sums of shape [draws, columns] to shape [draws], or [draws, statistics]. NaN where it is
            not defined: such draws say nothing.
        seed: equal arguments give equal intervals.
        draws: bootstrap draws.
        confidence: coverage in (0, 1).

    Returns:
        One interval a statistic. None where there are fewer than two clusters, whose spread nobody knows, or where no
        draw defines the statistic. Where every draw agrees it has no width: use a score interval there.

    Raises:
        DataError: no finite number in `values`, unequal lengths, or a setting out of range.
    """
    import numpy as np

    check_confidence(confidence)
    if draws < 1:
        raise DataError(f"draws is {draws}: expected at least 1")
    columns = np.asarray(values, dtype=np.float64)
    columns = columns[:, None] if columns.ndim == 1 else columns
    if not np.isfinite(columns).all():
        raise DataError(f"row {int(np.argwhere(~np.isfinite(columns))[0][0])} holds a value that is not finite")
    codes, n = cluster_codes(clusters, len(columns))
    sums = np.stack([np.bincount(codes, column, minlength=n) for column in columns.T], axis=1)
    if n < 2:
        width = np.asarray(statistic(sums.sum(axis=0, keepdims=True))).reshape(1, -1).shape[1]
        return [None] * width
    rng, found = np.random.default_rng(seed), []
    rows = max(1, _BLOCK // n)
    for start in range(0, draws, rows):
        size = min(rows, draws - start)
        drawn = rng.integers(0, n, (size, n)) + np.arange(size)[:, None] * n
        times = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n)
        found.append(np.asarray(statistic(times.astype(np.float64) @ sums)).reshape(size, -1))
    wide = expanded_confidence(confidence, n)
    return [_percentiles(column, wide) for column in np.concatenate(found).T]


def expanded_confidence(confidence: float, n: int) -> float:
    """The confidence at which percentiles of a bootstrap over `n` observations are to be read.

    A bootstrap varies by (n - 1) / n too little and has normal, not t, tails; for a mean of normal observations this
    makes up for both (Hesterberg 2015, "What teachers should know about the bootstrap", section 5.3). With 10 clusters
    0.95 becomes 0.983, with 100 it becomes 0.954.

    Raises:
        DataError: fewer than two observations, or a confidence outside (0, 1).
    """
    from scipy.special import stdtrit

    check_confidence(confidence)
    if n < 2:
        raise DataError(f"{n} observations: their spread needs two")
    t = float(stdtrit(n - 1, (1 + confidence) / 2))
    return 1 - 2 * NormalDist().cdf(-t * math.sqrt(n / (n - 1)))


def ratios(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Statistic for `cluster_bootstrap`: the first half of the columns over the second half, NaN where that is 0."""
    import numpy as np

    half = sums.shape[-1] // 2
    above, below = sums[..., :half], sums[..., half:]
    found: NDArray[np.float64] = np.divide(above, below, out=np.full(above.shape, np.nan), where=below != 0)
    return found


def _percentiles(values: NDArray[np.float64], confidence: float) -> Interval | None:
    import numpy as np

    defined = values[np.isfinite(values)]
    if not len(defined):
        return None
    low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(low=float(low), high=float(high))
