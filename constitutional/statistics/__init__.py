"""Statistics: every rate the package prints goes through here, so that none stands without its error.

What most of the package needs is exported here and imports no numpy; the rest is in the submodules `agreement`,
`logistic`, `multiple`, `ranking` and `similarity`.
"""

from constitutional.statistics.calibration import ReliabilityBin, expected_calibration_error, reliability_curve
from constitutional.statistics.clustered import WinRate, bootstrap_mean, cluster_bootstrap, win_rate
from constitutional.statistics.intervals import (
    Interval,
    Rate,
    bracketed,
    proportion_difference,
    rate,
    wilson,
    with_interval,
)

__all__ = [
    "Interval",
    "Rate",
    "ReliabilityBin",
    "WinRate",
    "bootstrap_mean",
    "bracketed",
    "cluster_bootstrap",
    "expected_calibration_error",
    "proportion_difference",
    "rate",
    "reliability_curve",
    "wilson",
    "win_rate",
    "with_interval",
]
