"""Agreement of annotators: Cohen's kappa, Krippendorff's alpha, and the metrics of a principle against a reference.

Each is a function of counts, so that `clustered.cluster_bootstrap` makes an interval of it from column sums.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from constitutional.errors import DataError
from constitutional.records import Record

Level = Literal["nominal", "ordinal", "interval"]


class PrincipleMetrics(Record):
    """A principle's votes against a reference; None where there are no votes at all."""

    agreement: float | None
    """Share of all votes that agree with the reference."""
    relevance: float | None
    """Share of all votes that are not "not applicable"."""
    strength: float | None
    """Relevance times kappa: (agree - disagree) / all."""
    kappa: float | None
    """2 * accuracy - 1 over the applicable votes: agreement beyond a chance of one half."""


def principle_metrics(agree: float, disagree: float, not_applicable: float) -> PrincipleMetrics:
    """The metrics of Inverse Constitutional AI and Feedback Forensics (Findeis et al. 2025), from counts of votes.

    kappa takes chance agreement as 1/2, as is right where the order of the answers is random. Where no vote is
    applicable, kappa is 0 as in Feedback Forensics; `relevance` is 0 there and says so.

    Args:
        agree: votes for the answer that the reference prefers.
        disagree: votes for the other.
        not_applicable: votes for neither: a tie, or a principle that does not apply.

    Raises:
        DataError: a negative count.
    """
    if min(agree, disagree, not_applicable) < 0:
        raise DataError(f"{agree} agree, {disagree} disagree, {not_applicable} not applicable: expected counts")
    decided, votes = agree + disagree, agree + disagree + not_applicable
    if not votes:
        return PrincipleMetrics(agreement=None, relevance=None, strength=None, kappa=None)
    return PrincipleMetrics(
        agreement=agree / votes,
        relevance=decided / votes,
        strength=(agree - disagree) / votes,
        kappa=(agree - disagree) / decided if decided else 0.0,
    )


def cohen_kappa(a: Sequence[Hashable | None], b: Sequence[Hashable | None]) -> float | None:
    """Cohen's kappa of two annotators (Cohen 1960), without weights.

    Args:
        a: the first annotator's categories. None is a missing one; its pair is left out.
        b: the second's, in the same order.

    Returns:
        None where it is not defined: no pair, or both gave one and the same category to all.

    Raises:
        DataError: unequal lengths.
    """
    value = float(kappa_of_table(confusion(a, b)))
    return None if np.isnan(value) else value


def confusion(a: Sequence[Hashable | None], b: Sequence[Hashable | None]) -> NDArray[np.float64]:
    """How often `a` said the row's category where `b` said the column's; the same categories both ways."""
    if len(a) != len(b):
        raise DataError(f"{len(a)} and {len(b)} annotations: expected as many")
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if x is not None and y is not None]
    index = {value: i for i, value in enumerate(dict.fromkeys(v for pair in pairs for v in pair))}
    table = np.zeros((len(index), len(index)))
    for x, y in pairs:
        table[index[x], index[y]] += 1
    return table


def kappa_of_table(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cohen's kappa of one confusion table, or of each of an array of them: shape [..., k, k] to [...]; NaN if none."""
    n = table.sum(axis=(-2, -1))
    with np.errstate(invalid="ignore", divide="ignore"):
        observed = np.trace(table, axis1=-2, axis2=-1) / n
        expected = (table.sum(axis=-1) * table.sum(axis=-2)).sum(axis=-1) / n**2
        kappa = (observed - expected) / (1 - expected)
    return np.where(np.isclose(expected, 1.0, rtol=0, atol=1e-12), np.nan, kappa)


def krippendorff_alpha(ratings: ArrayLike, level: Level = "nominal") -> float | None:
    """Krippendorff's alpha: agreement of any number of annotators, any of them missing anywhere (Krippendorff 2011).

    Args:
        ratings: array of shape [annotators, units], NaN where one is missing.
        level: how far apart two ratings are: `nominal` equal or not, `ordinal` by how many ratings lie between them,
            `interval` by the square of their difference.

    Returns:
        None where it is not defined: no unit with two ratings, or all ratings of such units alike.

    Raises:
        DataError: not an array of two dimensions, or an infinite rating.
    """
    table = np.asarray(ratings, dtype=np.float64)
    if table.ndim != 2:
        raise DataError(f"ratings have {table.ndim} dimensions: expected annotators by units")
    if np.isinf(table).any():
        raise DataError("a rating is infinite")
    if not table.size:
        return None
    if level == "interval":
        value = float(interval_alpha(interval_sums(table).sum(axis=0)))
    else:
        pairs = coincidences(table)
        value = float(alpha_of_coincidences(pairs.sum(axis=0), level))
    return None if np.isnan(value) else value


def coincidences(ratings: NDArray[np.float64]) -> NDArray[np.float64]:
    """Coincidence matrix of each unit, shape [units, values, values]; their sum is the usual one."""
    values = np.unique(ratings[~np.isnan(ratings)])
    counts = (ratings[:, :, None] == values).sum(axis=0).astype(np.float64)
    m = counts.sum(axis=1)
    pairs = counts[:, :, None] * counts[:, None, :] - counts[:, :, None] * np.eye(len(values))
    found: NDArray[np.float64] = pairs / np.where(m > 1, m - 1, np.inf)[:, None, None]
    return found


def alpha_of_coincidences(pairs: NDArray[np.float64], level: Literal["nominal", "ordinal"]) -> NDArray[np.float64]:
    """Alpha of a coincidence matrix, or of each of an array of them: shape [..., v, v] to [...]; NaN if none."""
    marginal = pairs.sum(axis=-1)
    if level == "nominal":
        distance = 1 - np.eye(pairs.shape[-1])
    else:
        upto = np.cumsum(marginal, axis=-1) - marginal / 2
        distance = (upto[..., :, None] - upto[..., None, :]) ** 2
    n = marginal.sum(axis=-1)
    observed = (pairs * distance).sum(axis=(-2, -1))
    expected = (marginal[..., :, None] * marginal[..., None, :] * distance).sum(axis=(-2, -1))
    return _alpha(observed, expected, n)


def interval_sums(ratings: NDArray[np.float64]) -> NDArray[np.float64]:
    """What `interval_alpha` needs of each unit, shape [units, 4]: count, sum, sum of squares, squares within the unit.

    Values are taken from their mean and over their spread, which alpha does not see, so that no digits are lost.
    """
    given = ~np.isnan(ratings)
    m = given.sum(axis=0)
    counted = given & (m > 1)
    x = np.where(counted, ratings - (ratings[counted].mean() if counted.any() else 0.0), 0.0)
    spread = np.abs(x).max(initial=0.0)
    alike = spread <= 1e-12 * np.abs(np.where(counted, ratings, 0.0)).max(initial=0.0)
    x = np.zeros_like(x) if alike else x / spread
    count = counted.sum(axis=0).astype(np.float64)
    total, squares = x.sum(axis=0), (x**2).sum(axis=0)
    within = 2 * (count * squares - total**2) / np.where(count > 1, count - 1, np.inf)
    return np.stack([count, total, squares, np.maximum(within, 0.0)], axis=1)


def interval_alpha(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Alpha with squared distances from the sums of `interval_sums`: shape [..., 4] to [...]; NaN if none."""
    n, total, squares, within = np.moveaxis(sums, -1, 0)
    return _alpha(within, 2 * (n * squares - total**2), n)


def _alpha(observed: NDArray[np.float64], expected: NDArray[np.float64], n: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 - (n - 1) * observed / expected, where both are sums over pairs; NaN where all values are alike."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(expected > 1e-12 * np.maximum(n, 1.0), 1 - (n - 1) * observed / expected, np.nan)
