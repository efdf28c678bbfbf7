"""Which principles say the same, and which contradict each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from constitutional.errors import DataError


@dataclass(frozen=True)
class Pairwise:
    """A number for each pair of principles, and the comparisons it rests on; NaN where it is not defined."""

    values: NDArray[np.float64]
    counts: NDArray[np.int64]


def correlation_matrix(opinions: ArrayLike) -> Pairwise:
    """Pearson correlation of each two columns over the rows in which both are given.

    Args:
        opinions: array of shape [comparisons, principles], NaN where a principle gave none.

    Returns:
        NaN where fewer than two rows are shared, or one of the two does not vary over them.

    Raises:
        DataError: not an array of two dimensions, or an infinite value.
    """
    x, given = _table(opinions)
    n = given.T @ given
    with np.errstate(invalid="ignore", divide="ignore"):
        # Taken from their mean over the column, so that nearly constant columns lose no digits.
        mean = x.sum(axis=0) / given.sum(axis=0)
        x = np.where(given > 0, x - mean, 0.0)
        scale = np.abs(x).max(axis=0, initial=0.0)
        x = np.divide(x, scale, out=np.zeros_like(x), where=scale > 0)
        sums, squares = x.T @ given, (x**2).T @ given
        covariance = x.T @ x - sums * sums.T / n
        variance = squares - sums**2 / n
        spread = np.sqrt(np.maximum(variance, 0.0) * np.maximum(variance.T, 0.0))
        varies = (variance > 1e-12 * n) & (1e-12 * n < variance.T) & (n > 1)
        values = np.where(varies, np.clip(covariance / spread, -1.0, 1.0), np.nan)
    np.fill_diagonal(values, np.where(np.isnan(np.diag(values)), np.nan, 1.0))
    return Pairwise(values, n.astype(np.int64))


def conflict_matrix(opinions: ArrayLike) -> Pairwise:
    """Share of the comparisons in which two principles prefer different answers, among those in which both prefer one.

    Args:
        opinions: p of `a`, shape [comparisons, principles]; NaN where there is none. Exactly one half prefers neither.

    Raises:
        DataError: as `correlation_matrix`.
    """
    x, given = _table(opinions)
    first, second = ((x > 0.5) & (given > 0)).astype(np.float64), ((x < 0.5) & (given > 0)).astype(np.float64)
    different, decided = first.T @ second, first + second
    n = decided.T @ decided
    values = np.divide(different + different.T, n, out=np.full(n.shape, np.nan), where=n > 0)
    return Pairwise(values, n.astype(np.int64))


def redundancy_clusters(correlation: ArrayLike, threshold: float = 0.8) -> list[list[int]]:
    """Groups of two or more columns that say the same: each two of a group correlate at least `threshold`.

    Complete linkage: the two groups are joined whose least correlation is highest, for as long as it reaches the
    threshold. A correlation that is not defined joins nothing.

    Returns:
        Columns of each group in order, groups in the order of their first column.
    """
    values = np.array(correlation, dtype=np.float64)
    if values.ndim != 2 or values.shape[0] != values.shape[1]:
        raise DataError(f"a correlation matrix of shape {values.shape}: expected a square")
    groups = [[i] for i in range(len(values))]
    while len(groups) > 1:
        least = [[_least(values, g, h) if g is not h else -np.inf for h in groups] for g in groups]
        i, j = divmod(int(np.argmax(least)), len(groups))
        if least[i][j] < threshold:
            break
        groups[min(i, j)] = sorted(groups[i] + groups[j])
        del groups[max(i, j)]
    return sorted(group for group in groups if len(group) > 1)


def _least(values: NDArray[np.float64], g: list[int], h: list[int]) -> float:
    between = values[np.ix_(g, h)]
    return -np.inf if np.isnan(between).any() else float(between.min())


def _table(opinions: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The values with 0 for missing ones, and 1 where one is given."""
    x = np.asarray(opinions, dtype=np.float64)
    if x.ndim != 2:
        raise DataError(f"opinions have {x.ndim} dimensions: expected comparisons by principles")
    if np.isinf(x).any():
        raise DataError("an opinion is infinite")
    given = ~np.isnan(x)
    return np.where(given, x, 0.0), given.astype(np.float64)
