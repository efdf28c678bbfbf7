"""Logistic fits against statsmodels and scikit-learn; separation and other tables without a finite fit."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from constitutional.errors import DataError
from constitutional.statistics.logistic import LogisticFit, fit_logistic


def table(seed: int, n: int = 120, k: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = np.column_stack([np.ones(n), rng.normal(size=(n, k - 1))])
    y = (rng.random(n) < 1 / (1 + np.exp(-x @ rng.normal(size=k)))).astype(float)
    return x, y, rng.random(n) * 3


@pytest.mark.parametrize("seed", range(5))
def test_fit_equals_statsmodels(seed: int) -> None:
    x, y, _ = table(seed)
    ours, theirs = fit_logistic(x, y), sm.Logit(y, x).fit(disp=0, tol=1e-12, maxiter=200)
    assert ours.converged
    assert ours.coefficients == pytest.approx(theirs.params.tolist(), abs=1e-6)
    assert np.array(ours.covariance) == pytest.approx(theirs.cov_params(), abs=1e-6)
    for i, (low, high) in enumerate(theirs.conf_int()):
        assert (ours.interval(i).low, ours.interval(i).high) == pytest.approx((low, high), abs=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_soft_outcomes_and_weights_equal_statsmodels_glm(seed: int) -> None:
    x, y, w = table(seed)
    soft = np.clip(y * 0.8 + np.random.default_rng(seed).random(len(y)) * 0.2, 0, 1)
    theirs = sm.GLM(soft, x, family=sm.families.Binomial(), freq_weights=w).fit(tol=1e-14, maxiter=200)
    ours = fit_logistic(x, soft, weights=w)
    assert ours.coefficients == pytest.approx(theirs.params.tolist(), abs=1e-6)
    assert np.array(ours.covariance) == pytest.approx(theirs.cov_params(), abs=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_clustered_covariance_equals_statsmodels(seed: int) -> None:
    x, y, _ = table(seed, n=200)
    clusters = np.random.default_rng(seed).integers(0, 30, len(y))
    theirs = sm.Logit(y, x).fit(disp=0, tol=1e-12, maxiter=200, cov_type="cluster", cov_kwds={"groups": clusters})
    ours = fit_logistic(x, y, clusters=clusters)
    assert np.array(ours.covariance) == pytest.approx(theirs.cov_params(), abs=1e-6)
    named = fit_logistic(x, y, clusters=[f"p{c}" for c in clusters])
    assert np.array(named.covariance) == pytest.approx(np.array(ours.covariance), abs=1e-12)


@pytest.mark.parametrize("l2", [0.01, 1.0, 30.0])
def test_penalised_fit_equals_sklearn(l2: float) -> None:
    x, y, w = table(7)
    theirs = LogisticRegression(C=1 / l2, fit_intercept=False, tol=1e-12, max_iter=10_000).fit(x, y, sample_weight=w)
    assert fit_logistic(x, y, weights=w, l2=l2).coefficients == pytest.approx(theirs.coef_[0].tolist(), abs=1e-6)


def test_a_penalty_of_each_coefficient_equals_a_general_optimiser() -> None:
    x, y, _ = table(8)
    l2 = np.array([0.0, 2.0, 5.0])

    def loss(b: np.ndarray) -> float:
        eta = x @ b
        return float((np.logaddexp(0, eta) - y * eta).sum() + (l2 * b * b).sum() / 2)

    theirs = minimize(loss, np.zeros(3), method="BFGS", options={"gtol": 1e-9})
    assert fit_logistic(x, y, l2=l2.tolist()).coefficients == pytest.approx(theirs.x.tolist(), abs=1e-6)
    # An unpenalised intercept is scikit-learn's own.
    own = LogisticRegression(C=0.5, tol=1e-12, max_iter=10_000).fit(x[:, 1:], y)
    assert fit_logistic(x, y, l2=[0.0, 2.0, 2.0]).coefficients == pytest.approx(
        [*own.intercept_, *own.coef_[0]], abs=1e-6
    )


def problem(x: object, y: object, **settings: object) -> str | None:
    found = fit_logistic(x, y, **settings)  # type: ignore[arg-type]
    assert found.converged == (found.problem is None)
    assert found.converged or (found.coefficients, found.covariance) == ((), ())
    return found.problem


def test_what_has_no_finite_fit_says_why() -> None:
    line = np.arange(10.0)
    x = np.column_stack([np.ones(10), line])
    assert problem(x, line > 4.5) == "separated"
    assert problem(x * 1e-6, line > 4.5) == "separated"
    assert problem(x, np.where(line == 5, 0.5, line > 5)) == "separated"  # soft at the very edge
    assert problem(x, np.ones(10)) == "separated"
    assert problem(np.ones((1, 1)), [0.0]) == "separated"  # one row
    dummy = np.column_stack([np.ones(10), line < 2])  # all of the first group won: quasi-complete separation
    assert problem(dummy, [1, 1, 0, 1, 0, 1, 0, 1, 0, 1]) == "separated"
    assert problem(np.column_stack([x, x[:, 1] * 2]), [0, 1] * 5) == "collinear"
    assert problem(np.empty((0, 2)), []) == "no data"
    assert problem(x, line > 4.5, weights=np.zeros(10)) == "no data"
    assert problem(np.zeros((4, 1)), [0, 1, 0, 1]) == "collinear"


def test_what_looks_separated_and_is_not_is_fitted() -> None:
    line = np.arange(10.0)
    x = np.column_stack([np.ones(10), line])
    y = (line > 4.5).astype(float)
    y[4] = 1.0
    y[5] = 0.0
    theirs = sm.Logit(y, x).fit(disp=0, tol=1e-12, maxiter=500)
    assert fit_logistic(x, y).coefficients == pytest.approx(theirs.params.tolist(), abs=1e-6)
    # A far outlier: its linear predictor is beyond 30, yet nothing is separated.
    far = np.vstack([x, [1.0, 400.0]])
    assert fit_logistic(far, [*y, 1.0]).converged
    # A penalty makes any table finite.
    assert fit_logistic(x, line > 4.5, l2=0.1).converged
    assert fit_logistic(np.column_stack([x, x[:, 1]]), y, l2=0.1).converged


def test_nothing_but_halves_says_nothing() -> None:
    x, _, _ = table(1)
    found = fit_logistic(x, np.full(len(x), 0.5))
    assert found.coefficients == pytest.approx((0.0, 0.0, 0.0), abs=1e-12)


def test_a_million_rows_are_quick() -> None:
    rng = np.random.default_rng(0)
    x = np.column_stack([np.ones(1_000_000), rng.normal(size=1_000_000)])
    y = (rng.random(1_000_000) < 1 / (1 + np.exp(-0.3 * x[:, 1]))).astype(float)
    found = fit_logistic(x, y, clusters=np.arange(1_000_000) // 10)
    assert found.interval(1, 0.999).low < 0.3 < found.interval(1, 0.999).high


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fit_logistic([1.0], [1.0]), "expected \\[n, k\\]"),
        (lambda: fit_logistic([[1.0]], [1.0, 0.0]), "expected \\[n, k\\]"),
        (lambda: fit_logistic([[np.nan]], [1.0]), "not finite"),
        (lambda: fit_logistic([[1.0]], [1.5]), "outcomes in"),
        (lambda: fit_logistic([[1.0]], [1.0], weights=[-1.0]), "not negative"),
        (lambda: fit_logistic([[1.0]], [1.0], weights=[1.0, 1.0]), "weights of shape"),
        (lambda: fit_logistic([[1.0], [1.0]], [1.0, 0.0], clusters=["a"]), "2 values but 1 clusters"),
        (lambda: LogisticFit(coefficients=(0.0,), covariance=((1.0,),)).interval(0, 2.0), "confidence is"),
    ],
)
def test_bad_arguments_give_one_clear_line(call: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        call()  # type: ignore[operator]
