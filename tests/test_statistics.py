"""Statistics against scipy, scikit-learn, published examples and exhaustive enumeration."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from constitutional import statistics
from constitutional.errors import DataError, shortened
from constitutional.statistics import (
    Interval,
    bootstrap_mean,
    clustered,
    expected_calibration_error,
    proportion_difference,
    reliability_curve,
    wilson,
    win_rate,
)

stats = pytest.importorskip("scipy.stats")


@pytest.mark.parametrize("confidence", [0.5, 0.8, 0.95, 0.999])
@pytest.mark.parametrize("n", [1, 2, 7, 40, 1000, 123_457])
def test_wilson_equals_scipy(n: int, confidence: float) -> None:
    for k in sorted({0, 1, n // 3, n // 2, n - 1, n}):
        theirs = stats.binomtest(k, n).proportion_ci(confidence, method="wilson")
        ours = wilson(k, n, confidence)
        assert ours.low == pytest.approx(theirs.low, abs=1e-12)
        assert ours.high == pytest.approx(theirs.high, abs=1e-12)


def test_wilson_of_nothing_and_exact_ends() -> None:
    assert wilson(0, 0) == Interval(low=0.0, high=1.0)
    assert wilson(0, 9).low == 0.0
    assert wilson(9, 9).high == 1.0


def test_proportion_difference_equals_newcombe_1998_table() -> None:
    # Newcombe (1998), Table II, method 10. Cases a, b, d, f and h.
    published = [
        ((56, 70, 48, 80), (0.0524, 0.3339)),
        ((9, 10, 3, 10), (0.1705, 0.8090)),
        ((5, 56, 0, 29), (-0.0381, 0.1926)),
        ((0, 10, 0, 10), (-0.2775, 0.2775)),
        ((10, 10, 0, 10), (0.6075, 1.0)),
    ]
    for counts, (low, high) in published:
        ours = proportion_difference(*counts)
        assert (ours.low, ours.high) == (pytest.approx(low, abs=6e-5), pytest.approx(high, abs=6e-5)), counts


def test_proportion_difference_is_antisymmetric_and_silent_on_nothing() -> None:
    there, back = proportion_difference(7, 20, 11, 25), proportion_difference(11, 25, 7, 20)
    assert (there.low, there.high) == (pytest.approx(-back.high), pytest.approx(-back.low))
    assert proportion_difference(0, 0, 3, 4) == Interval(low=-1.0, high=1.0)


@pytest.mark.parametrize("bins", [1, 5, 10, 17])
def test_reliability_curve_equals_sklearn(bins: int) -> None:
    calibration = pytest.importorskip("sklearn.calibration")
    rng = np.random.default_rng(3)
    p = rng.random(400)
    y = (rng.random(400) < p**2).astype(float)
    observed, predicted = calibration.calibration_curve(y, p, n_bins=bins)
    curve = reliability_curve(p.tolist(), y.tolist(), bins)
    assert [b.mean_outcome for b in curve] == pytest.approx(observed.tolist())
    assert [b.mean_probability for b in curve] == pytest.approx(predicted.tolist())
    assert sum(b.count for b in curve) == 400
    counts = np.histogram(p, bins=np.linspace(0, 1, bins + 1))[0]
    expected = float((counts[counts > 0] / 400 * np.abs(observed - predicted)).sum())
    assert expected_calibration_error(p.tolist(), y.tolist(), bins) == pytest.approx(expected, abs=1e-12)


def test_calibration_of_degenerate_tables() -> None:
    calibration = pytest.importorskip("sklearn.calibration")
    for p, y in (([0.3], [1.0]), ([0.0, 1.0], [0.0, 1.0]), ([0.7] * 9, [1.0] * 5 + [0.0] * 4), ([1.0] * 4, [0.0] * 4)):
        curve = reliability_curve(p, y)
        if len(set(y)) == 2:  # scikit-learn wants both
            observed, predicted = calibration.calibration_curve(y, p, n_bins=10)
            assert [b.mean_outcome for b in curve] == pytest.approx(observed.tolist())
            assert [b.mean_probability for b in curve] == pytest.approx(predicted.tolist())
        assert sum(b.count for b in curve) == len(p)
    assert expected_calibration_error([0.3], [1.0]) == pytest.approx(0.7)
    assert expected_calibration_error([1.0] * 4, [0.0] * 4) == 1.0
    assert expected_calibration_error([0.0, 1.0], [0.0, 1.0]) == 0.0


def test_calibration_error_by_hand() -> None:
    assert expected_calibration_error([0.9] * 10, [1.0] * 6 + [0.0] * 4) == pytest.approx(0.3)
    assert expected_calibration_error([0.7, 0.2], [0.7, 0.2]) == pytest.approx(0.0)  # soft labels, met exactly
    # Over- and under-confidence in different bins add up; in one bin they cancel.
    assert expected_calibration_error([0.2, 0.8], [0.4, 0.6], bins=10) == pytest.approx(0.2)
    assert expected_calibration_error([0.2, 0.8], [0.4, 0.6], bins=1) == pytest.approx(0.0)


def test_edges_belong_to_the_lower_bin_and_ends_are_kept() -> None:
    curve = reliability_curve([0.0, 0.3, 0.30001, 1.0], [0.0, 0.0, 1.0, 1.0], bins=10)
    assert [(b.mean_probability, b.count) for b in curve] == [(0.0, 1), (0.3, 1), (0.30001, 1), (1.0, 1)]


def test_bootstrap_equals_scipy_draw_for_draw() -> None:
    values = np.random.default_rng(1).normal(size=37)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=2000, method="percentile", rng=np.random.default_rng(5)
    ).confidence_interval
    ours = bootstrap_mean(values.tolist(), seed=5)
    assert (ours.low, ours.high) == (pytest.approx(theirs.low), pytest.approx(theirs.high))


def test_clustered_bootstrap_equals_scipy_over_cluster_indices() -> None:
    rng = np.random.default_rng(2)
    clusters = rng.integers(0, 15, 90)
    values = rng.random(90) + clusters * 0.1
    order = list(dict.fromkeys(clusters.tolist()))
    groups = [values[clusters == c] for c in order]

    def pooled_mean(index: np.ndarray, axis: int) -> np.ndarray:
        sums, counts = np.array([g.sum() for g in groups]), np.array([len(g) for g in groups])
        return sums[index].sum(axis=axis) / counts[index].sum(axis=axis)

    theirs = stats.bootstrap(
        (np.arange(len(groups)),), pooled_mean, n_resamples=2000, method="percentile", rng=np.random.default_rng(7)
    ).confidence_interval
    ours = bootstrap_mean(values.tolist(), clusters.tolist(), seed=7)
    assert (ours.low, ours.high) == (pytest.approx(theirs.low), pytest.approx(theirs.high))


def test_bootstrap_of_tiny_clusters_equals_every_resample_enumerated() -> None:
    groups = {"p": [0.0, 1.0], "q": [1.0], "r": [0.0, 0.0, 0.5], "s": [1.0, 0.25]}
    values = [v for vs in groups.values() for v in vs]
    clusters = [k for k, vs in groups.items() for _ in vs]
    means = []
    for drawn in itertools.product(groups.values(), repeat=len(groups)):  # 4^4 equally likely resamples
        pooled = [v for vs in drawn for v in vs]
        means.append(sum(pooled) / len(pooled))
    low, high = np.quantile(means, [0.1, 0.9])
    ours = bootstrap_mean(values, clusters, confidence=0.8, resamples=40_000)
    assert (ours.low, ours.high) == (pytest.approx(low, abs=0.02), pytest.approx(high, abs=0.02))


def test_bootstrap_blocks_do_not_change_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(4)
    values = [rng.random() for _ in range(20)]
    whole = bootstrap_mean(values)
    monkeypatch.setattr(clustered, "_BLOCK", 150)
    assert bootstrap_mean(values) == whole
    assert bootstrap_mean(values, seed=1) != whole


def test_clusters_widen_the_interval_of_dependent_answers() -> None:
    values = [float(i % 2) for i in range(20) for _ in range(10)]  # ten equal answers to each of 20 prompts
    clusters = [i for i in range(20) for _ in range(10)]
    free, clustered = bootstrap_mean(values), bootstrap_mean(values, clusters)
    assert clustered.high - clustered.low > 2.5 * (free.high - free.low)  # sqrt(10) in theory


def test_bootstrap_covers_the_true_mean() -> None:
    rng = np.random.default_rng(11)
    hits = 0
    for trial in range(200):
        sample = rng.random(60) < 0.7
        interval = bootstrap_mean(sample.astype(float).tolist(), resamples=400, seed=trial)
        hits += interval.low <= 0.7 <= interval.high
    assert stats.binomtest(hits, 200, 0.94).pvalue > 1e-3


def test_win_rate_counts_ties_and_clusters() -> None:
    outcomes, clusters = [1.0, 0.5, 0.0, 1.0, 1.0, 0.5], ["a", "a", "b", "b", "c", "c"]
    rate = win_rate(outcomes, clusters)
    assert (rate.mean, rate.n, rate.ties) == (pytest.approx(4 / 6), 6, 2)
    assert rate.interval == bootstrap_mean(outcomes, clusters)


def test_win_rate_without_variation_has_a_width() -> None:
    assert win_rate([1.0] * 12).interval == wilson(12, 12)
    assert win_rate([1.0] * 12, [i // 3 for i in range(12)]).interval == wilson(4, 4)
    assert win_rate([1.0, 0.0] * 8, [i // 2 for i in range(16)]).interval == wilson(4, 8)
    assert win_rate([0.0]).interval == wilson(0, 1)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 4)), min_size=1, max_size=30))
def test_win_rate_interval_stays_within_zero_and_one(rows: list[tuple[float, int]]) -> None:
    rate = win_rate([o for o, _ in rows], [c for _, c in rows], resamples=200)
    assert 0 <= rate.interval.low <= rate.interval.high <= 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: wilson(5, 4), "5 successes out of 4"),
        (lambda: wilson(-1, 4), "-1 successes"),
        (lambda: wilson(1, 4, 1.0), "confidence is 1.0"),
        (lambda: wilson(0, 0, 95), "confidence is 95"),
        (lambda: reliability_curve([0.5], []), "1 probabilities but 0 outcomes"),
        (lambda: reliability_curve([], []), "no probabilities"),
        (lambda: reliability_curve([0.5], [0.5], 0), "bins is 0"),
        (lambda: expected_calibration_error([float("nan")], [1.0]), "probability 0 is nan"),
        (lambda: expected_calibration_error([0.2, 0.3], [1.0, 1.5]), "outcome 1 is 1.5"),
        (lambda: bootstrap_mean([]), "no values"),
        (lambda: bootstrap_mean([1.0, float("inf")]), "value 1 is not"),
        (lambda: bootstrap_mean([1.0], ["a", "b"]), "1 values but 2 clusters"),
        (lambda: bootstrap_mean([1.0], resamples=0), "resamples is 0"),
        (lambda: win_rate([1.0, -0.5]), "outcome 1 is -0.5"),
    ],
)
def test_bad_arguments_give_one_clear_line(call: object, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        call()  # type: ignore[operator]
    assert "\n" not in str(caught.value)


def test_importing_the_module_does_not_import_numpy() -> None:
    code = "import sys, constitutional.statistics; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_share_is_written_with_its_interval_and_a_share_of_nothing_is_no_zero() -> None:
    assert statistics.with_interval(statistics.rate(3, 4)) == "0.75 [0.30, 0.95]"
    assert statistics.with_interval(statistics.rate(0, 4)) == "0.00 [0.00, 0.49]"
    assert statistics.with_interval(statistics.rate(0, 0)) == "—"
    assert statistics.bracketed(Interval(low=-0.1, high=0.25), signed=True) == "[-0.10, +0.25]"


def test_what_is_shortened_keeps_its_width() -> None:
    assert [shortened("abcdef", width) for width in (6, 5, 4)] == ["abcdef", "ab...", "a..."]
    assert shortened("abcdef", 5, "…") == "abcd…"
