"""Benjamini-Hochberg against scipy and statsmodels; the minimum detectable effect against its definition."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from constitutional.errors import DataError
from constitutional.statistics.multiple import benjamini_hochberg, minimum_detectable_effect


@pytest.mark.parametrize("seed", range(6))
def test_adjusted_p_values_equal_scipy_and_statsmodels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    p = np.round(rng.random(int(rng.integers(1, 60))) ** 3, 2)  # rounded: with equal ones
    ours = benjamini_hochberg(p.tolist())
    assert ours == pytest.approx(stats.false_discovery_control(p).tolist(), abs=1e-12)
    assert ours == pytest.approx(multipletests(p, method="fdr_bh")[1].tolist(), abs=1e-12)


def test_adjusted_p_values_of_degenerate_lists() -> None:
    assert benjamini_hochberg([]) == []
    assert benjamini_hochberg([0.04]) == [0.04]
    assert benjamini_hochberg([1.0, 1.0]) == [1.0, 1.0]
    assert benjamini_hochberg([0.0, 0.0, 0.0]) == [0.0, 0.0, 0.0]
    for bad in (float("nan"), -0.1, 1.1):
        with pytest.raises(DataError, match="p value 1"):
            benjamini_hochberg([0.5, bad])


@pytest.mark.parametrize("power", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("n", [10, 25, 400, 100_000])
def test_the_effect_has_the_power_it_is_said_to_have(n: int, power: float) -> None:
    effect = minimum_detectable_effect(n, power)
    assert effect is not None
    if effect == pytest.approx(0.5):
        return
    critical = stats.norm.ppf(0.975) * 0.5 / np.sqrt(n)
    p = 0.5 + effect
    assert stats.norm.sf(critical, effect, np.sqrt(p * (1 - p) / n)) == pytest.approx(power, abs=1e-9)


@pytest.mark.parametrize("n", [400, 4000])
def test_the_effect_by_counting_outcomes(n: int) -> None:
    effect = minimum_detectable_effect(n)
    assert effect == pytest.approx({400: 0.0698, 4000: 0.0221}[n], abs=1e-4)
    k = np.arange(n + 1)
    rejected = np.abs(k - n / 2) > stats.norm.ppf(0.975) * np.sqrt(n) / 2
    assert stats.binom.pmf(k, n, 0.5 + effect)[rejected].sum() == pytest.approx(0.8, abs=0.02)  # outcomes are whole


def test_few_trials_can_show_nothing() -> None:
    assert [minimum_detectable_effect(n) for n in range(4)] == [None] * 4
    assert all(0 < (minimum_detectable_effect(n) or 0) <= 0.5 for n in range(4, 50))
    for bad in ((-1, 0.8, 0.05), (10, 0.4, 0.05), (10, 1.0, 0.05), (10, 0.8, 0.0)):
        with pytest.raises(DataError, match="expected n >= 0"):
            minimum_detectable_effect(*bad)
