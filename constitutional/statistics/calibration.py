"""Calibration: whether what is given a probability of 0.8 happens in eight of ten cases."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence

from constitutional.errors import DataError
from constitutional.records import Record
from constitutional.statistics.intervals import check_unit


class ReliabilityBin(Record):
    """One point of a reliability curve: what was predicted and what happened in one bin."""

    mean_probability: float
    mean_outcome: float
    count: int


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
    check_unit(probabilities, "probability")
    check_unit(outcomes, "outcome")
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
