"""Comparisons whose better answer is known: what calibrations and weights are fitted to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from constitutional.records import short_digest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from constitutional.statistics import Interval


@dataclass(frozen=True)
class Truth:
    """Which answer of a comparison is the better one, said by an author or a person."""

    comparison_id: str
    prompt_id: str
    """Comparisons on one prompt are not independent: they stay together in folds and in intervals."""
    a_better: bool


def labels_digest(truths: Iterable[Truth]) -> str:
    """The digest of the labels a fit was made from, whatever their order."""
    return short_digest(sorted([t.comparison_id, t.prompt_id, t.a_better] for t in truths))


def clustered_covariance(
    x: NDArray[np.float64], y: NDArray[np.float64], coefficients: NDArray[np.float64], l2: float, groups: Sequence[str]
) -> NDArray[np.float64]:
    """Covariance of logistic coefficients whose rows depend on one another within groups (Liang and Zeger 1986).

    The sandwich `H^-1 (sum over groups of g g') H^-1` with the Hessian of the penalised loss and each group's summed
    score, times G / (G - 1) for G groups; zeros where there are fewer than two. A penalised estimate is drawn to zero,
    and its interval with it.

    Args:
        x: one row an observation.
        y: outcomes in [0, 1].
        coefficients: as fitted.
        l2: the penalty `l2 / 2 * |coefficients|^2` they were fitted under.
        groups: the group of each row.
    """
    import numpy as np

    p = 1 / (1 + np.exp(-(x @ coefficients)))
    hessian = (x * (p * (1 - p))[:, None]).T @ x + l2 * np.eye(x.shape[1])
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    scores = np.zeros((len(names), x.shape[1]))
    np.add.at(scores, index, (y - p)[:, None] * x)
    bread = np.linalg.pinv(hessian)
    scale = len(names) / (len(names) - 1) if len(names) > 1 else 0.0
    covariance: NDArray[Any] = scale * bread @ (scores.T @ scores) @ bread
    return covariance


def wald(value: float, variance: float) -> Interval:
    """The 95 % interval of a coefficient by its variance."""
    from statistics import NormalDist

    from constitutional.statistics import Interval

    half = NormalDist().inv_cdf(0.975) * max(variance, 0.0) ** 0.5
    return Interval(low=value - half, high=value + half)
