"""Exact tests of paired right-or-wrong answers, and their correction when several are made."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

from constitutional.errors import DataError


def sign_test(gained: int, lost: int) -> float:
    """One-sided exact p of McNemar's test: P(X >= gained), X binomial with n = gained + lost and probability 1/2.

    Args:
        gained: pairs that the new one got right and the old one wrong.
        lost: pairs the other way round. Pairs both got right, or both wrong, say nothing and are not counted.

    Returns:
        1.0 when no pair differs.

    Raises:
        DataError: a negative count.
    """
    if gained < 0 or lost < 0:
        raise DataError(f"{gained} gained and {lost} lost: expected counts")
    n = gained + lost
    return float(sum(comb(n, k) for k in range(gained, n + 1)) / 2**n)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p values (Holm 1979): claims made where they are <= alpha are all true with probability 1 - alpha."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted
