"""Bradley-Terry against choix and statsmodels; ties, items that never lose, and lists ranked from pairs."""

from __future__ import annotations

import choix
import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st

from constitutional.errors import DataError
from constitutional.statistics.ranking import RIDGE, bradley_terry, rank, win_matrix


def played(seed: int, n: int) -> list[tuple[int, int]]:
    """Who beat whom."""
    rng = np.random.default_rng(seed)
    strength = rng.normal(size=n)
    pairs = [tuple(rng.choice(n, 2, replace=False).tolist()) for _ in range(40 * n)]
    return [(i, j) if rng.random() < 1 / (1 + np.exp(strength[j] - strength[i])) else (j, i) for i, j in pairs]


def matrix(n: int, won: list[tuple[int, int]]) -> np.ndarray:
    return win_matrix(n, [i for i, _ in won], [j for _, j in won], np.ones(len(won)))


@pytest.mark.parametrize("n", [2, 3, 6, 12])
def test_ratings_equal_choix(n: int) -> None:
    won = played(n, n)
    ours = bradley_terry(matrix(n, won))
    theirs = choix.ilsr_pairwise(n, won, max_iter=10_000, tol=1e-13)
    assert ours.ridge == 0
    assert ours.ratings == pytest.approx((theirs - theirs.mean()).tolist(), abs=1e-6)


def test_covariance_equals_statsmodels() -> None:
    n, won = 5, played(1, 5)
    wins = matrix(n, won)
    pairs = [(i, j) for i in range(n) for j in range(i + 1, n)]
    design = np.array([[float(k == i) - float(k == j) for k in range(n)] for i, j in pairs])
    results = np.array([[wins[i, j], wins[j, i]] for i, j in pairs])
    theirs = sm.GLM(results, design[:, 1:], family=sm.families.Binomial()).fit(tol=1e-14)  # the first rating is 0
    centre = np.vstack([np.zeros(n - 1), np.eye(n - 1)]) - 1 / n
    ours = bradley_terry(wins)
    assert ours.ratings == pytest.approx((centre @ theirs.params).tolist(), abs=1e-6)
    assert np.array(ours.covariance) == pytest.approx(centre @ theirs.cov_params() @ centre.T, abs=1e-6)
    half = 1.959963984540054 * np.array(ours.covariance).diagonal() ** 0.5
    assert ours.interval(2).high - ours.ratings[2] == pytest.approx(half[2])


def test_a_tie_is_half_a_win_each_way() -> None:
    ours = bradley_terry(win_matrix(2, [0, 0, 1], [1, 1, 0], [1.0, 0.5, 0.5]))
    assert ours.ratings[0] - ours.ratings[1] == pytest.approx(np.log(2.0))  # two wins to one
    assert bradley_terry(win_matrix(2, [0], [1], [0.5])).ratings == pytest.approx((0.0, 0.0))


def test_who_never_loses_gets_a_finite_rating_and_the_result_says_so() -> None:
    won = [(0, 1), (0, 2), (1, 2), (2, 1), (0, 1)]
    ours = bradley_terry(matrix(3, won))
    assert ours.ridge == RIDGE
    theirs = choix.opt_pairwise(3, won, alpha=RIDGE / 2, tol=1e-12)  # its penalty is alpha times the sum of squares
    assert ours.ratings == pytest.approx((theirs - theirs.mean()).tolist(), abs=1e-4)
    assert ours.order()[0] == 0
    # The penalty is of the ratings alone: it does not blow up the variance of their mean, which is fixed.
    assert np.array(ours.covariance).sum(axis=1) == pytest.approx([0.0] * 3, abs=1e-9)
    apart = bradley_terry([[0, 3, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 3, 0]])  # two groups that never met
    assert apart.ridge == RIDGE
    assert apart.ratings[0] == pytest.approx(apart.ratings[3])


def test_degenerate_wins() -> None:
    one = bradley_terry([[0.0]])
    assert (one.ratings, one.ridge) == ((0.0,), 0.0)
    nothing = bradley_terry(np.zeros((3, 3)))
    assert (nothing.ratings, nothing.ridge) == ((0.0, 0.0, 0.0), RIDGE)
    assert bradley_terry([[7.0, 1.0], [1.0, 9.0]]).ratings == pytest.approx((0.0, 0.0))  # the diagonal does not count
    huge = bradley_terry([[0, 1e6], [1, 0]])
    assert huge.ratings[0] - huge.ratings[1] == pytest.approx(np.log(1e6), abs=1e-6)
    for bad in ([[1.0, 2.0]], [], [[0.0, -1.0], [1.0, 0.0]], [[0.0, np.inf], [1.0, 0.0]]):
        with pytest.raises(DataError):
            bradley_terry(bad)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(-4, 4), min_size=1, max_size=7, unique=True), st.randoms(use_true_random=False))
def test_a_list_is_ranked_as_its_pairwise_probabilities_say(strengths: list[float], shuffle: object) -> None:
    s = np.round(np.array(strengths), 2)
    p = 1 / (1 + np.exp(s[None, :] - s[:, None]))
    ranked = rank(p)
    assert [s[i] for i in ranked] == sorted(s.tolist(), reverse=True)


def test_a_list_of_which_some_pairs_were_never_compared() -> None:
    nan = np.nan
    assert rank([[nan, 0.9, nan], [nan, nan, 0.8], [nan, nan, nan]]) == [0, 1, 2]  # 0 over 1 over 2
    assert rank([[nan, nan, 0.1], [nan, nan, 0.3], [nan, nan, nan]]) == [2, 1, 0]
    assert rank([[0.5]]) == [0]
    assert rank(np.full((2, 2), 0.5)) == [0, 1]
    assert rank([[nan, 1.0], [0.0, nan]]) == [0, 1]
    with pytest.raises(DataError, match=r"in \[0, 1\]"):
        rank([[0.0, 2.0], [0.0, 0.0]])
    with pytest.raises(DataError, match="square"):
        rank([[0.0, 1.0]])


def test_planted_strengths_lie_inside_their_intervals() -> None:
    strength, hits, total = np.array([1.0, 0.3, 0.0, -0.4, -0.9]), 0, 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        i, j = rng.integers(0, 5, 400), rng.integers(1, 5, 400)
        j = (i + j) % 5
        fit = bradley_terry(win_matrix(5, i, j, rng.random(400) < 1 / (1 + np.exp(strength[j] - strength[i]))))
        hits += sum(fit.interval(k).low <= strength[k] <= fit.interval(k).high for k in range(5))
        total += 5
    assert 0.92 <= hits / total <= 0.985
