"""Bootstrap of functions of column sums: against scipy, against the mean's own, and at a million rows."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from constitutional.errors import DataError
from constitutional.statistics import Interval, bootstrap_mean, cluster_bootstrap, clustered
from constitutional.statistics.agreement import kappa_of_table
from constitutional.statistics.clustered import expanded_confidence, ratios


def with_ones(values: np.ndarray) -> np.ndarray:
    return np.column_stack([values, np.ones(len(values))])


def ends(intervals: list[Interval | None]) -> list[tuple[float, float]]:
    return [(i.low, i.high) for i in intervals if i is not None]


def test_of_a_mean_it_is_the_mean_bootstrap_draw_for_draw() -> None:
    rng = np.random.default_rng(0)
    values, clusters = rng.random(90), rng.integers(0, 15, 90)
    for given in (clusters.tolist(), clusters, None):
        wide = expanded_confidence(0.95, 90 if given is None else 15)
        mean = bootstrap_mean(
            values.tolist(), None if given is None else clusters.tolist(), resamples=500, seed=3, confidence=wide
        )
        ours = cluster_bootstrap(with_ones(values), given, ratios, seed=3, draws=500)
        assert ends(ours) == [pytest.approx((mean.low, mean.high))]


def test_kappa_equals_scipy_over_cluster_indices() -> None:
    rng = np.random.default_rng(1)
    a, clusters = rng.integers(0, 3, 200), np.arange(200) // 5
    b = np.where(rng.random(200) < 0.7, a, rng.integers(0, 3, 200))
    cells = np.eye(9)[a * 3 + b]
    sums = np.stack([cells[clusters == c].sum(axis=0) for c in range(40)])

    def kappa(index: np.ndarray, axis: int) -> np.ndarray:
        tables = np.moveaxis(sums[index], axis, -2).sum(axis=-2) if axis != -1 else sums[index].sum(axis=-2)
        return kappa_of_table(tables.reshape(*tables.shape[:-1], 3, 3))

    theirs = stats.bootstrap(
        (np.arange(40),),
        kappa,
        n_resamples=800,
        method="percentile",
        confidence_level=expanded_confidence(0.95, 40),
        rng=np.random.default_rng(7),
    ).confidence_interval
    (ours,) = cluster_bootstrap(cells, clusters, lambda s: kappa_of_table(s.reshape(-1, 3, 3)), seed=7, draws=800)
    assert ours is not None
    assert (ours.low, ours.high) == (pytest.approx(theirs.low), pytest.approx(theirs.high))


def test_several_statistics_share_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    x, y, clusters = rng.random(60), rng.random(60), rng.integers(0, 12, 60)
    both = cluster_bootstrap(np.column_stack([x, y, np.ones(60), np.ones(60)]), clusters, ratios, draws=300)
    alone = [cluster_bootstrap(with_ones(v), clusters, ratios, draws=300)[0] for v in (x, y)]
    assert ends(both) == [pytest.approx(e) for e in ends(alone)]
    monkeypatch.setattr(clustered, "_BLOCK", 50)
    again = cluster_bootstrap(np.column_stack([x, y, np.ones(60), np.ones(60)]), clusters, ratios, draws=300)
    assert ends(again) == [pytest.approx(e) for e in ends(both)]  # blocks do not change the draws


def test_few_clusters_are_covered_as_often_as_said() -> None:
    hits = 0
    for seed in range(400):
        values = np.random.default_rng(seed).normal(size=8)
        (found,) = cluster_bootstrap(with_ones(values), None, ratios, seed=seed, draws=500)
        assert found is not None
        hits += found.low <= 0.0 <= found.high
    assert hits / 400 > 0.925  # plain percentiles: 0.89
    t = stats.t.ppf(0.975, 9) * np.sqrt(10 / 9)
    assert expanded_confidence(0.95, 10) == pytest.approx(1 - 2 * stats.norm.sf(t), abs=1e-12)
    assert expanded_confidence(0.95, 10**6) == pytest.approx(0.95, abs=1e-5)
    with pytest.raises(DataError, match="1 observations"):
        expanded_confidence(0.95, 1)


def test_degenerate_columns() -> None:
    assert cluster_bootstrap(np.empty((0, 2)), None, ratios) == [None]
    assert cluster_bootstrap([[1.0, 1.0]] * 4, ["p"] * 4, ratios) == [None]  # one prompt: its spread is not known
    assert cluster_bootstrap([[0.0, 0.0]] * 4, None, ratios) == [None]  # 0 of 0 in every draw
    assert cluster_bootstrap([[1.0, 1.0]] * 4, None, ratios) == [Interval(low=1.0, high=1.0)]
    assert cluster_bootstrap([1.0, 2.0], None, lambda s: s[:, 0], draws=5)[0] is not None  # one column may be flat
    with pytest.raises(DataError, match="row 1 holds"):
        cluster_bootstrap([[1.0], [np.nan]], None, ratios)
    with pytest.raises(DataError, match="2 values but 1 clusters"):
        cluster_bootstrap([[1.0], [1.0]], ["a"], ratios)
    with pytest.raises(DataError, match="draws is 0"):
        cluster_bootstrap([[1.0], [1.0]], None, ratios, draws=0)


def test_a_ratio_is_covered_as_often_as_said() -> None:
    hits = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        size = rng.integers(1, 6, 80)
        clusters = np.repeat(np.arange(80), size)
        chance = rng.beta(3, 2, 80)[clusters]  # answers to one prompt are alike
        (found,) = cluster_bootstrap(
            with_ones((rng.random(len(clusters)) < chance).astype(float)), clusters, ratios, seed=seed, draws=400
        )
        assert found is not None
        hits += found.low <= 0.6 <= found.high
    assert stats.binomtest(hits, 200, 0.94).pvalue > 1e-3


def test_a_million_rows_of_a_hundred_thousand_prompts() -> None:
    rng = np.random.default_rng(0)
    clusters = np.arange(1_000_000) // 10
    won = (rng.random((1_000_000, 4)) < 0.6).astype(float)
    found = cluster_bootstrap(np.column_stack([won, np.ones_like(won)]), clusters, ratios, draws=200)
    assert all(i is not None and 0.596 < i.low < i.high < 0.604 for i in found)
