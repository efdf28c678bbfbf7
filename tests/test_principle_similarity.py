"""Correlations against pandas, conflicts and groups against brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from constitutional.errors import DataError
from constitutional.statistics.similarity import conflict_matrix, correlation_matrix, redundancy_clusters


def opinions(seed: int, n: int = 50, k: int = 6) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = 1 / (1 + np.exp(-(rng.normal(size=(n, 1)) + rng.normal(size=(n, k)))))
    x[rng.random(x.shape) < rng.choice([0.0, 0.3, 0.9])] = np.nan
    x[rng.random(x.shape) < 0.05] = 0.5
    return x


@pytest.mark.parametrize("seed", range(10))
def test_correlations_equal_pandas(seed: int) -> None:
    x = opinions(seed)
    found = correlation_matrix(x)
    theirs = pd.DataFrame(x).corr(min_periods=2).to_numpy()
    given = ~np.isnan(x)
    for i, j in itertools.product(range(x.shape[1]), repeat=2):
        both = given[:, i] & given[:, j]
        assert found.counts[i, j] == both.sum()
        varies = both.sum() > 1 and np.ptp(x[both, i]) > 0 and np.ptp(x[both, j]) > 0
        assert found.values[i, j] == (
            pytest.approx(theirs[i, j], abs=1e-6) if varies else pytest.approx(nan, nan_ok=True)
        )


nan = float("nan")


def test_correlations_of_degenerate_opinions() -> None:
    assert correlation_matrix(np.empty((0, 2))).counts.tolist() == [[0, 0], [0, 0]]
    assert np.isnan(correlation_matrix(np.empty((0, 2))).values).all()
    assert correlation_matrix(np.empty((3, 0))).values.shape == (0, 0)
    assert np.isnan(correlation_matrix([[0.1, 0.2]]).values).all()  # one row
    assert np.isnan(correlation_matrix(np.full((9, 2), nan)).values).all()  # all missing
    same = correlation_matrix([[0.7, 0.1], [0.7, 0.4], [0.7, 0.3]])
    assert np.isnan(same.values[0]).all() and same.values[1, 1] == 1.0
    close = np.array([[0.5, 0.5], [0.5 + 1e-7, 0.5 - 1e-7], [0.5 + 3e-7, 0.5 - 3e-7]])
    assert correlation_matrix(close).values[0, 1] == pytest.approx(-1.0, abs=1e-6)
    for bad in ([0.1, 0.2], [[np.inf, 0.2]]):
        with pytest.raises(DataError):
            correlation_matrix(bad)


@pytest.mark.parametrize("seed", range(5))
def test_conflicts_equal_counting(seed: int) -> None:
    x = opinions(seed)
    found = conflict_matrix(x)
    for i, j in itertools.product(range(x.shape[1]), repeat=2):
        decided = [(a, b) for a, b in zip(x[:, i], x[:, j], strict=True) if a == a and b == b and a != 0.5 != b]
        assert found.counts[i, j] == len(decided)
        share = np.mean([(a > 0.5) != (b > 0.5) for a, b in decided]) if decided else nan
        assert found.values[i, j] == pytest.approx(share, nan_ok=True)


def test_groups_say_the_same_each_with_each() -> None:
    correlation = np.array(
        [
            [1.0, 0.9, 0.5, 0.1, nan],
            [0.9, 1.0, 0.85, 0.1, nan],
            [0.5, 0.85, 1.0, 0.1, nan],
            [0.1, 0.1, 0.1, 1.0, 0.95],
            [nan, nan, nan, 0.95, 1.0],
        ]
    )
    assert redundancy_clusters(correlation, 0.8) == [[0, 1], [3, 4]]  # 2 is close to 1, but not to 0
    assert redundancy_clusters(correlation, 0.5) == [[0, 1, 2], [3, 4]]
    assert redundancy_clusters(correlation, 0.99) == []
    assert redundancy_clusters(np.empty((0, 0))) == redundancy_clusters([[1.0]]) == []
    assert redundancy_clusters(np.full((3, 3), nan)) == []
    with pytest.raises(DataError, match="square"):
        redundancy_clusters([[1.0, 0.5]])


@pytest.mark.parametrize("seed", range(5))
def test_groups_equal_scipys_complete_linkage(seed: int) -> None:
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    rng = np.random.default_rng(seed)
    correlation = np.corrcoef(rng.normal(size=(3, 12)).T @ rng.normal(size=(3, 400)) + rng.normal(size=(12, 400)))
    np.fill_diagonal(correlation, 1.0)
    distance = squareform(1 - (correlation + correlation.T) / 2, checks=False)
    labels = fcluster(linkage(distance, "complete"), 1 - 0.6 + 1e-12, "distance")
    groups = [np.flatnonzero(labels == c).tolist() for c in set(labels)]
    assert redundancy_clusters(correlation, 0.6) == sorted(g for g in groups if len(g) > 1)
