"""Many tests at once, and what a number of trials could have shown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

from constitutional.errors import DataError


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Adjusted p values (Benjamini and Hochberg 1995), in the order given.

    Of the claims made where they are at most alpha, a share of alpha is expected to be false. For independent tests,
    and for those that depend on each other positively.

    Raises:
        DataError: a p outside [0, 1]; NaN included.
    """
    for i, p in enumerate(p_values):
        if not 0 <= p <= 1:
            raise DataError(f"p value {i} is {p}: expected a number in [0, 1]")
    n = len(p_values)
    adjusted, lowest = [0.0] * n, 1.0
    order = sorted(range(n), key=p_values.__getitem__)
    for rank in range(n, 0, -1):
        i = order[rank - 1]
        lowest = min(lowest, p_values[i] * n / rank)
        adjusted[i] = lowest
    return adjusted


def minimum_detectable_effect(n: int, power: float = 0.8, alpha: float = 0.05) -> float | None:
    """The smallest distance d of a proportion from one half that a two-sided test of n trials finds with that power.

    Normal approximation: d solves `d * sqrt(n) = z(1 - alpha/2) / 2 + z(power) * sqrt(1/4 - d**2)`, the null's standard
    error 1/(2 sqrt n) and the alternative's sqrt(p (1 - p) / n) at p = 1/2 + d (Fleiss, Levin and Paik 2003, section
    2.4, without continuity correction).

    Args:
        n: independent trials.
        power: chance to find it, in [0.5, 1).
        alpha: chance to find what is not there, in (0, 1).

    Returns:
        In (0, 0.5]; None where n trials could not even find a proportion of 0 or 1.

    Raises:
        DataError: an argument out of range.
    """
    if n < 0 or not 0.5 <= power < 1 or not 0 < alpha < 1:
        raise DataError(f"n {n}, power {power}, alpha {alpha}: expected n >= 0, 0.5 <= power < 1 and 0 < alpha < 1")
    a, b = NormalDist().inv_cdf(1 - alpha / 2) / 2, NormalDist().inv_cdf(power)
    if math.sqrt(n) / 2 < a:
        return None
    # The larger root of (n + b^2) d^2 - 2 a sqrt(n) d + a^2 - b^2 / 4 = 0.
    inside = a * a * n - (n + b * b) * (a * a - b * b / 4)
    return (a * math.sqrt(n) + math.sqrt(max(0.0, inside))) / (n + b * b)
