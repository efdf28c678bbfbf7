"""Bradley-Terry: ratings from wins and losses in pairs, and a ranking of several answers to one prompt."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from constitutional.errors import DataError
from constitutional.records import Record
from constitutional.statistics.intervals import Interval, check_confidence

RIDGE = 0.01
"""Penalty on half the squared ratings where some ratings would otherwise be infinite."""
_STEPS, _CLOSE = 200, 1e-10


class BradleyTerry(Record):
    """Log-strengths with mean 0: i beats j with probability 1 / (1 + exp(rating j - rating i))."""

    ratings: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]
    ridge: float
    """Penalty the fit needed: 0, or `RIDGE` where the wins do not connect all; ratings are then as large as it lets."""

    def interval(self, i: int, confidence: float = 0.95) -> Interval:
        """Wald interval of rating `i`, which is relative to the mean of all."""
        check_confidence(confidence)
        half = NormalDist().inv_cdf((1 + confidence) / 2) * max(0.0, self.covariance[i][i]) ** 0.5
        return Interval(low=self.ratings[i] - half, high=self.ratings[i] + half)

    def order(self) -> list[int]:
        """Indices from best to worst; equal ones in their own order."""
        return sorted(range(len(self.ratings)), key=lambda i: -round(self.ratings[i], 9))


def bradley_terry(wins: ArrayLike) -> BradleyTerry:
    """Maximum-likelihood ratings (Bradley and Terry 1952), by Newton's method.

    The likelihood has a finite maximum only where, however the items are split in two groups, each group beat the other
    at least once (Ford 1957). Where not, `RIDGE` is added and the result says so.

    Args:
        wins: square; row i, column j says how often i beat j. A tie is half a win each way; a soft verdict p is p one
            way and 1 - p the other. The diagonal does not count.

    Returns:
        The covariance is the inverse of the information: it takes the comparisons as independent coin flips.

    Raises:
        DataError: not square, a negative or infinite count, or none at all to rate.
    """
    counts = np.array(wins, dtype=np.float64)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or not len(counts):
        raise DataError(f"wins of shape {counts.shape}: expected a square")
    if not np.isfinite(counts).all() or (counts < 0).any():
        raise DataError("wins hold a count that is negative or not finite")
    np.fill_diagonal(counts, 0.0)
    ridge = 0.0 if strongly_connected(counts) else RIDGE
    ratings = _newton(counts, ridge)
    inverse = np.linalg.pinv(_information(counts, ratings, ridge), hermitian=True)
    return BradleyTerry(
        ratings=tuple(float(r) for r in ratings),
        covariance=tuple(tuple(float(v) for v in row) for row in inverse),
        ridge=ridge,
    )


def win_matrix(n: int, first: ArrayLike, second: ArrayLike, outcomes: ArrayLike) -> NDArray[np.float64]:
    """Wins of `n` items from comparisons: indices of both sides, and 1 where the first won, 0.5 a tie, 0 a loss."""
    i, j, won = np.asarray(first, np.intp), np.asarray(second, np.intp), np.asarray(outcomes, np.float64)
    wins = np.zeros((n, n))
    np.add.at(wins, (i, j), won)
    np.add.at(wins, (j, i), 1 - won)
    return wins


def rank(pairwise: ArrayLike) -> list[int]:
    """Answers from best to worst, by the ratings that fit their pairwise probabilities best.

    Args:
        pairwise: square; row i, column j is the probability that answer i is better than j, NaN where the two were not
            compared. Each pair counts once: where only one side is given, the other is 1 minus it.

    Raises:
        DataError: not square, or a probability outside [0, 1].
    """
    p = np.array(pairwise, dtype=np.float64)
    if p.ndim != 2 or p.shape[0] != p.shape[1]:
        raise DataError(f"probabilities of shape {p.shape}: expected a square")
    if ((p < 0) | (p > 1)).any():
        raise DataError("expected probabilities in [0, 1]")
    mirrored = 1 - p.T
    both = np.where(np.isnan(p), mirrored, np.where(np.isnan(mirrored), p, (p + mirrored) / 2))
    np.fill_diagonal(both, 0.0)
    return bradley_terry(np.nan_to_num(both, nan=0.0)).order()


def strongly_connected(wins: NDArray[np.float64]) -> bool:
    """Whether a chain of wins leads from every item to every other."""
    from scipy.sparse.csgraph import connected_components

    components: int = connected_components(wins > 0, directed=True, connection="strong", return_labels=False)
    return components <= 1


def _newton(wins: NDArray[np.float64], ridge: float) -> NDArray[np.float64]:
    ratings, n = np.zeros(len(wins)), wins + wins.T
    for _ in range(_STEPS):
        gradient = (wins - n * _chances(ratings)).sum(axis=1) - ridge * ratings
        # The sum of the ratings is free: 1/k in each cell fixes it at zero and moves nothing else.
        information = _information(wins, ratings, ridge) + 1 / len(wins)
        step = np.linalg.solve(information, gradient)
        size, now = 1.0, _likelihood(wins, ratings, ridge)
        while size > 1e-10 and _likelihood(wins, ratings + size * step, ridge) < now - 1e-12 * abs(now):
            size /= 2
        ratings = ratings + size * step
        if np.abs(step).max() < _CLOSE:
            break
    return np.asarray(ratings - ratings.mean())


def _chances(ratings: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.exp(-np.logaddexp(0.0, ratings[None, :] - ratings[:, None]))


def _likelihood(wins: NDArray[np.float64], ratings: NDArray[np.float64], ridge: float) -> float:
    lost = np.logaddexp(0.0, ratings[None, :] - ratings[:, None])
    return float(-(wins * lost).sum() - ridge * (ratings**2).sum() / 2)


def _information(wins: NDArray[np.float64], ratings: NDArray[np.float64], ridge: float) -> NDArray[np.float64]:
    p = _chances(ratings)
    between = (wins + wins.T) * p * p.T
    # The mean of the ratings is fixed, so the penalty informs of what is left of them alone.
    return np.asarray(np.diag(between.sum(axis=1)) - between + ridge * (np.eye(len(wins)) - 1 / len(wins)))
