"""Intervals and calibration: every rate the package prints goes through here, so that none stands without its error.

Outcomes and probabilities are plain Python floats; numpy is imported only by the bootstrap.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Hashable, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING

from constitutional.errors import DataError
from constitutional.records import Record

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_BLOCK = 1_000_000  # random indices drawn at a time: bounds the bootstrap's memory to a few tens of MB


class Interval(Record):
    """A two-sided confidence interval, ends included."""

    low: float
    high: float


class Rate(Record):
    """A share with its interval (Wilson's)."""

    count: int
    n: int
    interval: Interval

    @property
    def share(self) -> float:
        """count / n; 0 of 0 is 0."""
        return self.count / self.n if self.n else 0.0


def bracketed(interval: Interval, *, signed: bool = False) -> str:
    """`[0.30, 0.95]`; signed, with the sign of both ends."""
    form = "+.2f" if signed else ".2f"
    return f"[{interval.low:{form}}, {interval.high:{form}}]"


def with_interval(value: Rate) -> str:
    """`0.75 [0.30, 0.95]`; a dash for a share of nothing."""
    return f"{value.share:.2f} {bracketed(value.interval)}" if value.n else "—"


class WinRate(Record):
    """Mean outcome of paired comparisons (1 win, 0.5 tie, 0 loss) with its interval."""

    mean: float
    interval: Interval
    n: int
    ties: int


class ReliabilityBin(Record):
    """One point of a reliability curve: what was predicted and what happened in one bin."""

    mean_probability: float
    mean_outcome: float
    count: int


def wilson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Score interval of a proportion, without continuity correction (Wilson 1927).

    Args:
        successes: how many of the trials succeeded, 0 to `n`.
        n: independent trials. With none nothing is known, and the interval is [0, 1].
        confidence: coverage in (0, 1).

    Raises:
        DataError: counts that are negative or exceed `n`, or a confidence outside (0, 1).
    """
    if not 0 <= successes <= n:
        raise DataError(f"{successes} successes out of {n} trials: expected 0 <= successes <= n")
    return _score_interval(successes / n if n else 0.5, n, confidence)


def rate(count: int, n: int, confidence: float = 0.95) -> Rate:
    """A share with its `wilson` interval, whose arguments and errors these are."""
    return Rate(count=count, n=n, interval=wilson(count, n, confidence))


def proportion_difference(k1: int, n1: int, k2: int, n2: int, confidence: float = 0.95) -> Interval:
    """Interval of `k1/n1 - k2/n2` for independent samples (Newcombe 1998, method 10: two Wilson intervals combined).

    Either sample being empty gives [-1, 1].

    Raises:
        DataError: as `wilson`.
    """
    first, second = wilson(k1, n1, confidence), wilson(k2, n2, confidence)
    if not n1 or not n2:
        return Interval(low=-1.0, high=1.0)
    p1, p2 = k1 / n1, k2 / n2
    down = math.hypot(p1 - first.low, second.high - p2)
    up = math.hypot(first.high - p1, p2 - second.low)
    return Interval(low=max(-1.0, p1 - p2 - down), high=min(1.0, p1 - p2 + up))


def reliability_curve(
    probabilities: Sequence[float], outcomes: Sequence[float], bins: int = 10
) -> tuple[ReliabilityBin, ...]:
    """Mean outcome against mean predicted probability in equally wide bins, empty bins left out.

    Args:
        probabilities: predictions in [0, 1]. A value on an edge belongs to the lower bin.
        outcomes: what happened, 0 or 1, or a soft label between.
        bins: how many bins [0, 1] is cut into.

    Raises:
        DataError: no data, unequal lengths, a value outside [0, 1] (NaN included), or fewer than one bin.
    """
    if bins < 1:
        raise DataError(f"bins is {bins}: expected at least 1")
    if len(probabilities) != len(outcomes):
        raise DataError(f"{len(probabilities)} probabilities but {len(outcomes)} outcomes")
    if not probabilities:
        raise DataError("no probabilities: calibration needs at least one")
    _check_unit(probabilities, "probability")
    _check_unit(outcomes, "outcome")
    edges = [i / bins for i in range(1, bins)]
    members: list[list[int]] = [[] for _ in range(bins)]
    for i, p in enumerate(probabilities):
        members[bisect_left(edges, p)].append(i)
    return tuple(
        ReliabilityBin(
            mean_probability=math.fsum(probabilities[i] for i in rows) / len(rows),
            mean_outcome=math.fsum(outcomes[i] for i in rows) / len(rows),
            count=len(rows),
        )
        for rows in members
        if rows
    )


def expected_calibration_error(probabilities: Sequence[float], outcomes: Sequence[float], bins: int = 10) -> float:
    """Count-weighted mean of |mean outcome - mean probability| over the bins (Guo et al. 2017, section 2, eq. 3).

    Arguments and errors are those of `reliability_curve`.
    """
    curve = reliability_curve(probabilities, outcomes, bins)
    return math.fsum(b.count * abs(b.mean_outcome - b.mean_probability) for b in curve) / len(probabilities)


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

    _check_confidence(confidence)
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
    _check_unit(outcomes, "outcome")
    interval = bootstrap_mean(outcomes, clusters, confidence, resamples, seed)
    mean = math.fsum(outcomes) / len(outcomes)
    sums, counts = _cluster_sums(outcomes, clusters)
    rates = sums / counts
    if float(rates.max() - rates.min()) < 1e-12:
        interval = _score_interval(mean, len(rates), confidence)
    return WinRate(mean=mean, interval=interval, n=len(outcomes), ties=sum(o == 0.5 for o in outcomes))


def _score_interval(p: float, n: int, confidence: float) -> Interval:
    _check_confidence(confidence)
    if n == 0:
        return Interval(low=0.0, high=1.0)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # At p = 0 and p = 1 the end is 0 or 1 exactly; rounding would leave it an ulp away.
    return Interval(low=0.0 if p == 0 else max(0.0, centre - half), high=1.0 if p == 1 else min(1.0, centre + half))


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


def _check_unit(values: Sequence[float], name: str) -> None:
    for i, v in enumerate(values):
        if not 0 <= v <= 1:  # also true of NaN
            raise DataError(f"{name} {i} is {v}: expected a number in [0, 1]")


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise DataError(f"confidence is {confidence}: expected a number between 0 and 1, ends excluded")
