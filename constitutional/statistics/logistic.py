"""Logistic regression by Newton's method: effects with intervals, weights of principles, Platt scaling."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from constitutional.errors import DataError
from constitutional.records import Record
from constitutional.statistics.clustered import cluster_codes
from constitutional.statistics.intervals import Interval, check_confidence

Problem = Literal["no data", "collinear", "separated", "not converged"]
_STEPS = 100
_FAR = 30.0  # a linear predictor this far out is worth asking whether the data are separated


class LogisticFit(Record):
    """Coefficients and their covariance; both are empty where there is no finite fit, and `problem` says why."""

    coefficients: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]
    problem: Problem | None = None

    @property
    def converged(self) -> bool:
        """True when the coefficients are those of greatest likelihood."""
        return self.problem is None

    def interval(self, i: int, confidence: float = 0.95) -> Interval:
        """Wald interval of coefficient `i` of a fit that converged."""
        check_confidence(confidence)
        half = NormalDist().inv_cdf((1 + confidence) / 2) * self.covariance[i][i] ** 0.5
        return Interval(low=self.coefficients[i] - half, high=self.coefficients[i] + half)


def fit_logistic(
    x: ArrayLike,
    y: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    l2: float | Sequence[float] = 0.0,
    clusters: Sequence[Hashable] | NDArray[np.generic] | None = None,
) -> LogisticFit:
    """Coefficients b that maximise `sum w (y log s + (1 - y) log(1 - s)) - sum l2 b^2 / 2`, s = 1 / (1 + exp(-x b)).

    Nothing is added to x: give it a column of ones for an intercept.

    Args:
        x: shape [rows, coefficients].
        y: outcomes in [0, 1]; soft ones are frequencies.
        weights: of the rows, not negative; 1 each when None.
        l2: the penalty, for all coefficients or for each (0 for an intercept). scikit-learn's C is 1 / l2.
        clusters: what each row belongs to. The covariance is then the sandwich that allows rows of a cluster to depend
            on each other and soft outcomes to vary less than coin flips do (Liang and Zeger 1986), with the factor
            C / (C - 1) * (n - 1) / (n - k). When None it is the inverse of the information.

    Returns:
        A fit without coefficients where there is none: no rows of weight, collinear columns, or outcomes that some
        direction of x separates, so that the likelihood grows without end.

    Raises:
        DataError: shapes that do not fit, a value that is not finite, outcomes outside [0, 1], a negative weight.
    """
    rows, outcomes, w, penalty = _checked(x, y, weights, l2)
    k = rows.shape[1]
    heavy = w > 0
    if not heavy.any():
        return _without("no data")
    if np.linalg.matrix_rank(rows[heavy] if not penalty.any() else np.vstack([rows[heavy], np.diag(penalty)])) < k:
        return _without("collinear")
    b, asked = np.zeros(k), False
    for _ in range(_STEPS):
        eta = rows @ b
        if not asked and not penalty.all() and np.abs(eta[heavy]).max() > _FAR:
            asked = True
            if _separated(rows[heavy], outcomes[heavy], penalty):
                return _without("separated")
        s = _sigmoid(eta)
        gradient = rows.T @ (w * (outcomes - s)) - penalty * b
        information = (rows * (w * s * (1 - s))[:, None]).T @ rows + np.diag(penalty)
        try:
            step = np.linalg.solve(information, gradient)
        except np.linalg.LinAlgError:
            break
        size, now = 1.0, _objective(rows, outcomes, w, penalty, b)
        while size > 1e-10 and _objective(rows, outcomes, w, penalty, b + size * step) < now - 1e-12 * abs(now):
            size /= 2
        b = b + size * step
        if np.abs(rows @ step).max() < 1e-9:
            return _fitted(rows, outcomes, w, penalty, b, clusters)
    separated = not penalty.all() and _separated(rows[heavy], outcomes[heavy], penalty)
    return _without("separated" if separated else "not converged")


def _fitted(
    rows: NDArray[np.float64],
    y: NDArray[np.float64],
    w: NDArray[np.float64],
    penalty: NDArray[np.float64],
    b: NDArray[np.float64],
    clusters: Sequence[Hashable] | NDArray[np.generic] | None,
) -> LogisticFit:
    s = _sigmoid(rows @ b)
    inverse = np.linalg.inv((rows * (w * s * (1 - s))[:, None]).T @ rows + np.diag(penalty))
    if clusters is not None:
        codes, count = cluster_codes(clusters, len(rows))
        scores = rows * (w * (y - s))[:, None]
        sums = np.stack([np.bincount(codes, column, minlength=count) for column in scores.T], axis=1)
        n, k = rows.shape
        if count < 2 or n <= k:
            return _without("no data")
        inverse = inverse @ (sums.T @ sums) @ inverse * (count / (count - 1) * (n - 1) / (n - k))
    covariance = tuple(tuple(float(v) for v in row) for row in (inverse + inverse.T) / 2)
    return LogisticFit(coefficients=tuple(float(v) for v in b), covariance=covariance)


def _separated(rows: NDArray[np.float64], y: NDArray[np.float64], penalty: NDArray[np.float64]) -> bool:
    """Whether a direction of the free coefficients never lowers the likelihood and raises it somewhere.

    (Albert and Anderson 1984.) A linear programme: a row of y > 0 wants x d >= 0, one of y < 1 wants x d <= 0.
    """
    from scipy.optimize import linprog

    free = rows[:, penalty == 0]
    ones, zeros = free[y > 0], free[y < 1]
    signed = np.vstack([-ones, zeros])
    found = linprog(signed.sum(axis=0), A_ub=signed, b_ub=np.zeros(len(signed)), bounds=(-1, 1), method="highs")
    return bool(found.status == 0 and found.fun < -1e-9)


def _objective(
    rows: NDArray[np.float64],
    y: NDArray[np.float64],
    w: NDArray[np.float64],
    penalty: NDArray[np.float64],
    b: NDArray[np.float64],
) -> float:
    eta = rows @ b
    return float((w * (y * eta - np.logaddexp(0.0, eta))).sum() - (penalty * b * b).sum() / 2)


def _sigmoid(eta: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.exp(-np.logaddexp(0.0, -eta))


def _without(problem: Problem) -> LogisticFit:
    return LogisticFit(coefficients=(), covariance=(), problem=problem)


def _checked(
    x: ArrayLike, y: ArrayLike, weights: ArrayLike | None, l2: float | Sequence[float]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    rows, outcomes = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if rows.ndim != 2 or outcomes.shape != rows.shape[:1]:
        raise DataError(f"x of shape {rows.shape} and y of shape {outcomes.shape}: expected [n, k] and [n]")
    w = np.ones(len(rows)) if weights is None else np.asarray(weights, dtype=np.float64)
    penalty = np.broadcast_to(np.asarray(l2, dtype=np.float64), rows.shape[1:]).copy()
    if w.shape != outcomes.shape:
        raise DataError(f"{len(rows)} rows but weights of shape {w.shape}")
    if not all(np.isfinite(v).all() for v in (rows, outcomes, w, penalty)):
        raise DataError("x, y, weights or l2 hold a value that is not finite")
    if ((outcomes < 0) | (outcomes > 1)).any() or (w < 0).any() or (penalty < 0).any():
        raise DataError("expected outcomes in [0, 1], and weights and l2 that are not negative")
    return rows, outcomes, w, penalty
