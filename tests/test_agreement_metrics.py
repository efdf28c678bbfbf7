"""Kappa and alpha against scikit-learn, statsmodels and krippendorff; principle metrics against published constants."""

from __future__ import annotations

import warnings

import krippendorff
import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.inter_rater import cohens_kappa

from constitutional.errors import DataError
from constitutional.statistics.agreement import (
    Level,
    PrincipleMetrics,
    alpha_of_coincidences,
    cohen_kappa,
    coincidences,
    confusion,
    interval_alpha,
    interval_sums,
    kappa_of_table,
    krippendorff_alpha,
    principle_metrics,
)


def metrics(counts: tuple[int, int, int]) -> tuple[float | None, ...]:
    found = principle_metrics(*counts)
    return found.agreement, found.relevance, found.strength, found.kappa


# The constants of feedback_forensics 0.5.0's own tests: (agree, disagree, not applicable) and what is computed of them.
@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((3, 2, 1), (0.5, 5 / 6, 1 / 6, 0.2)),
        ((0, 0, 5), (0.0, 0.0, 0.0, 0.0)),
        ((5, 0, 0), (1.0, 1.0, 1.0, 1.0)),
        ((0, 5, 0), (0.0, 1.0, -1.0, -1.0)),
        ((4, 0, 1), (0.8, 0.8, 0.8, 1.0)),
        ((0, 4, 1), (0.0, 0.8, -0.8, -1.0)),
        ((2, 2, 1), (0.4, 0.8, 0.0, 0.0)),
        ((3, 1, 0), (0.75, 1.0, 0.5, 0.5)),
        ((3, 3, 2), (0.375, 0.75, 0.0, 0.0)),
    ],
)
def test_principle_metrics_equal_feedback_forensics(counts: tuple[int, int, int], expected: tuple[float, ...]) -> None:
    assert metrics(counts) == pytest.approx(expected, abs=1e-12)


def test_principle_metrics_of_no_votes_are_no_numbers() -> None:
    nothing = PrincipleMetrics(agreement=None, relevance=None, strength=None, kappa=None)
    assert principle_metrics(0, 0, 0) == nothing
    with pytest.raises(DataError, match="-1 disagree"):
        principle_metrics(1, -1, 0)


@pytest.mark.parametrize("seed", range(8))
def test_kappa_equals_sklearn_and_statsmodels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, k = int(rng.integers(2, 200)), int(rng.integers(2, 6))
    a = rng.integers(0, k, n)
    b = np.where(rng.random(n) < rng.random(), a, rng.integers(0, k, n))
    ours = cohen_kappa(a.tolist(), b.tolist())
    assert ours == pytest.approx(cohen_kappa_score(a, b), abs=1e-9)
    assert ours == pytest.approx(cohens_kappa(confusion(a.tolist(), b.tolist()), return_results=False), abs=1e-9)


def test_kappa_of_degenerate_annotations() -> None:
    assert cohen_kappa([], []) is None
    assert cohen_kappa(["x"], ["x"]) is None  # one category for all: nothing to agree about
    assert cohen_kappa(["x"], ["y"]) == pytest.approx(0.0)
    assert cohen_kappa("xxxx", "yyyy") == pytest.approx(cohen_kappa_score(list("xxxx"), list("yyyy")))
    assert cohen_kappa("xyxy", "yxyx") == pytest.approx(-1.0)
    assert cohen_kappa("xyxy", "xyxy") == 1.0
    assert cohen_kappa([None, "x", "y", "x"], ["x", None, "y", "x"]) == 1.0  # what is missing is left out, not counted
    assert cohen_kappa([None, None], ["x", "y"]) is None
    with pytest.raises(DataError, match="1 and 2 annotations"):
        cohen_kappa(["x"], ["x", "y"])


def test_kappa_of_many_tables_at_once() -> None:
    tables = np.random.default_rng(0).integers(0, 9, (5, 3, 3)).astype(float)
    assert kappa_of_table(tables).tolist() == pytest.approx([float(kappa_of_table(t)) for t in tables])


def ratings(seed: int) -> np.ndarray:
    """Annotators who agree more or less, with anything missing."""
    rng = np.random.default_rng(seed)
    raters, units, k = int(rng.integers(2, 6)), int(rng.integers(2, 60)), int(rng.integers(2, 6))
    truth = rng.integers(0, k, units)
    table = np.where(rng.random((raters, units)) < 0.7, truth, rng.integers(0, k, (raters, units))).astype(float)
    table[rng.random(table.shape) < rng.choice([0.0, 0.2, 0.5])] = np.nan
    return table


@pytest.mark.parametrize("level", ["nominal", "ordinal", "interval"])
@pytest.mark.parametrize("seed", range(12))
def test_alpha_equals_krippendorff(seed: int, level: Level) -> None:
    table = ratings(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = krippendorff.alpha(reliability_data=table, level_of_measurement=level)
    ours = krippendorff_alpha(table, level)
    assert ours == (None if np.isnan(theirs) else pytest.approx(theirs, abs=1e-9))


def test_alpha_equals_krippendorffs_published_example() -> None:
    # Krippendorff (2011), "Computing Krippendorff's alpha-reliability", section C: four observers, twelve units.
    nan = np.nan
    table = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, nan, nan, nan],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, nan, 3],
        [nan, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, nan],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, nan],
    ]
    assert krippendorff_alpha(table, "nominal") == pytest.approx(0.743, abs=5e-4)
    assert krippendorff_alpha(table, "ordinal") == pytest.approx(0.815, abs=5e-4)
    assert krippendorff_alpha(table, "interval") == pytest.approx(0.849, abs=5e-4)


@pytest.mark.parametrize("level", ["nominal", "ordinal", "interval"])
def test_alpha_of_degenerate_ratings(level: Level) -> None:
    nan = np.nan
    assert krippendorff_alpha(np.empty((2, 0)), level) is None
    assert krippendorff_alpha(np.full((3, 4), nan), level) is None
    assert krippendorff_alpha([[1.0, 2.0, 3.0]], level) is None  # one annotator
    assert krippendorff_alpha([[1.0, nan], [nan, 2.0]], level) is None  # no unit with two ratings
    assert krippendorff_alpha([[0.1] * 7, [0.1] * 7], level) is None  # all alike
    assert krippendorff_alpha([[1e9, 1e9], [1e9, 1e9]], level) is None
    assert krippendorff_alpha([[1.0, 2.0], [1.0, 2.0]], level) == pytest.approx(1.0)
    unit = krippendorff.alpha(reliability_data=[[1.0, 2.0], [2.0, 1.0]], level_of_measurement=level)
    assert krippendorff_alpha([[1.0, 2.0], [2.0, 1.0]], level) == pytest.approx(unit)
    with pytest.raises(DataError, match="1 dimensions"):
        krippendorff_alpha([1.0, 2.0], level)
    with pytest.raises(DataError, match="infinite"):
        krippendorff_alpha([[np.inf, 1.0], [1.0, 1.0]], level)


@pytest.mark.parametrize(("scale", "shift"), [(1e-9, 0.0), (1.0, 1e8), (1e6, -1e3)])
def test_interval_alpha_does_not_see_scale_and_shift(scale: float, shift: float) -> None:
    table = ratings(3)
    assert krippendorff_alpha(table * scale + shift, "interval") == pytest.approx(
        krippendorff_alpha(table, "interval"), abs=1e-6
    )


def test_alpha_of_sums_over_units_is_the_alpha_of_all() -> None:
    table = ratings(5)
    twice = np.concatenate([table, table], axis=1)  # as a bootstrap draws units twice
    pairs, sums = coincidences(table), interval_sums(table)
    stacked = np.stack([pairs.sum(axis=0), 2 * pairs.sum(axis=0)])
    for level in ("nominal", "ordinal"):
        expected = [krippendorff_alpha(table, level), krippendorff_alpha(twice, level)]
        assert alpha_of_coincidences(stacked, level).tolist() == pytest.approx(expected)
    expected = [krippendorff_alpha(table, "interval"), krippendorff_alpha(twice, "interval")]
    assert interval_alpha(np.stack([sums.sum(axis=0), 2 * sums.sum(axis=0)])).tolist() == pytest.approx(expected)
