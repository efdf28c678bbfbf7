"""Intervals of proportions and their differences: every rate the package prints goes through here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

from constitutional.errors import DataError
from constitutional.records import Record


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
    return score_interval(successes / n if n else 0.5, n, confidence)


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


def score_interval(p: float, n: int, confidence: float) -> Interval:
    """`wilson` of a share that need not be a count out of `n`."""
    check_confidence(confidence)
    if n == 0:
        return Interval(low=0.0, high=1.0)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # At p = 0 and p = 1 the end is 0 or 1 exactly; rounding would leave it an ulp away.
    return Interval(low=0.0 if p == 0 else max(0.0, centre - half), high=1.0 if p == 1 else min(1.0, centre + half))


def check_unit(values: Sequence[float], name: str) -> None:
    """Raises DataError for the first value outside [0, 1]."""
    for i, v in enumerate(values):
        if not 0 <= v <= 1:  # also true of NaN
            raise DataError(f"{name} {i} is {v}: expected a number in [0, 1]")


def check_confidence(confidence: float) -> None:
    """Raises DataError for a coverage that is none."""
    if not 0 < confidence < 1:
        raise DataError(f"confidence is {confidence}: expected a number between 0 and 1, ends excluded")
