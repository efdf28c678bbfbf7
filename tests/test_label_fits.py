"""What is fitted to labels, against scikit-learn and against planted truth."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from constitutional.errors import DataError
from constitutional.feedback.label.calibration import calibrated, fit_calibrations
from constitutional.feedback.label.truths import Truth
from constitutional.feedback.label.weights import FittedWeights, fit_weights
from constitutional.records import Judgment, Usage

REFS = ["p0@1.0.0", "p1@1.0.0", "p2@1.0.0"]


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def judgment(comparison: str, ref: str, order: str, p_a: float, mode: str = "logprob", judge: str = "j") -> Judgment:
    return Judgment.model_validate({
        "key": f"{comparison}{ref}{order}{judge}", "comparison_id": comparison, "principle": ref,
        "principle_digest": "", "template_digest": "", "judge": judge, "mode": mode, "order": order,
        "outcome": "preference", "p_a": p_a, "logprobs": (), "mass": 1.0, "usage": Usage(), "seed": 0,
    })  # fmt: skip


def overconfident(n: int, slope: float, shift: float, seed: int = 0) -> tuple[list[Truth], list[Judgment]]:
    """A judge whose true log-odds of the answer it reads first are slope * logit(p) + shift."""
    draw = random.Random(seed)
    truths: list[Truth] = []
    judgments: list[Judgment] = []
    for i in range(n):
        # the log-odds in the frame of each order; what is true must be true in both: draw the label from one of them
        order = draw.choice(("ab", "ba"))
        logit = draw.gauss(0, 2)
        first = draw.random() < sigma(slope * logit + shift)
        truths.append(Truth(f"c{i}", f"q{i // 2}", a_better=first == (order == "ab")))
        p = sigma(logit)
        judgments.append(judgment(f"c{i}", REFS[0], order, p if order == "ab" else 1 - p))
    return truths, judgments


def frames(truths: Sequence[Truth], judgments: Sequence[Judgment]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logit of the first answer, whether it is the better one, and Platt's target, straight from the definition."""
    better = {t.comparison_id: t.a_better for t in truths}
    x = [math.log(j.p_a / (1 - j.p_a)) * (1 if j.order == "ab" else -1) for j in judgments]  # type: ignore[operator]
    y = np.array([better[j.comparison_id] == (j.order == "ab") for j in judgments])
    ones, zeros = y.sum(), (~y).sum()
    return np.array(x), y, np.where(y, (ones + 1) / (ones + 2), 1 / (zeros + 2))


@pytest.mark.parametrize("method", ["temperature", "platt"])
def test_a_calibration_is_the_logistic_regression_of_scikit_learn(method) -> None:
    truths, judgments = overconfident(300, 0.4, 0.5)
    (found,) = fit_calibrations(truths, judgments, method)
    x, y, target = frames(truths, judgments)
    oracle = LogisticRegression(C=np.inf, fit_intercept=method == "platt", tol=1e-12, max_iter=10_000)
    doubled, outcomes = np.concatenate([x, x])[:, None], np.repeat([1, 0], len(x))
    oracle.fit(doubled, outcomes, sample_weight=np.concatenate([target, 1 - target]))
    assert found.slope == pytest.approx(oracle.coef_[0, 0], abs=1e-6)
    assert found.intercept == pytest.approx(float(np.ravel(oracle.intercept_)[0]), abs=1e-6)
    assert (found.intercept_interval is None) == (method == "temperature")
    mended = found.slope * x + found.intercept
    loss = np.mean(np.logaddexp(0, np.where(y, -mended, mended)))
    assert found.loss_after == pytest.approx(loss) and found.loss_after < found.loss_before
    assert fit_calibrations(truths[::-1], judgments[::-1], method) == (found,)


def test_a_planted_temperature_and_position_bias_lie_in_their_intervals() -> None:
    inside = [0, 0]
    for seed in range(40):
        (found,) = fit_calibrations(*overconfident(300, 0.4, 0.5, seed), "platt")
        inside[0] += found.slope_interval.low <= 0.4 <= found.slope_interval.high
        assert found.intercept_interval is not None
        inside[1] += found.intercept_interval.low <= 0.5 <= found.intercept_interval.high
    assert min(inside) >= 34  # of 40 at 95 %: fewer has probability 0.0002


def test_a_calibration_changes_its_own_judges_numbers_and_no_others() -> None:
    truths, judgments = overconfident(200, 0.4, 0.5)
    mended = calibrated(fit_calibrations(truths, judgments, "platt"))
    (found,) = fit_calibrations(truths, judgments, "platt")
    ab = mended(judgment("x", REFS[0], "ab", 0.9))
    assert ab == pytest.approx(sigma(found.slope * math.log(9) + found.intercept))
    assert mended(judgment("x", REFS[0], "ba", 0.1)) == pytest.approx(1 - ab)  # type: ignore[operator]
    for other in (judgment("x", REFS[0], "ab", 0.9, judge="k"), judgment("x", REFS[0], "ab", 0.9, mode="check")):
        assert mended(other) == 0.9
    assert mended(judgment("x", REFS[0], "ab", 1.0)) == pytest.approx(1, abs=0.05)  # a vote of all is no infinity
    silent = judgment("x", REFS[0], "ab", 0.9).model_copy(update={"p_a": None, "outcome": "error"})
    assert mended(silent) is None


def test_a_judge_that_is_right_everywhere_is_not_called_certain_and_one_that_says_nothing_is_refused() -> None:
    truths = [Truth(f"c{i}", f"q{i}", True) for i in range(10)]
    right = [judgment(t.comparison_id, REFS[0], o, 0.7 if o == "ab" else 0.8) for t in truths for o in ("ab", "ba")]
    (found,) = fit_calibrations(truths, right, "temperature")
    assert 0 < found.p_first(0.7) < 0.95
    with pytest.raises(DataError, match="nothing can be fitted to the 20 judgments of j"):
        fit_calibrations(truths, [j.model_copy(update={"p_a": 0.5}) for j in right], "platt")
    with pytest.raises(DataError, match="no judge gave a number"):
        fit_calibrations(truths, [j.model_copy(update={"mode": "check"}) for j in right], "platt")


TRUE = (3.0, 0.0, -1.5)


def panel(n: int, seed: int = 0, missing: float = 0.2) -> tuple[list[Truth], list[Judgment]]:
    """Three principles whose opinions tell of the better answer by the weights TRUE."""
    draw = random.Random(seed)
    truths: list[Truth] = []
    judgments: list[Judgment] = []
    for i in range(n):
        p = [draw.random() for _ in REFS]
        heard = [draw.random() >= missing for _ in REFS]
        total = sum(w * (2 * value - 1) for w, value, on in zip(TRUE, p, heard, strict=True) if on)
        truths.append(Truth(f"c{i}", f"q{i}", draw.random() < sigma(total)))
        for ref, value, on in zip(REFS, p, heard, strict=True):
            if on:
                gap = min(value, 1 - value, 0.1)
                judgments += [judgment(f"c{i}", ref, o, value + d) for o, d in (("ab", gap), ("ba", -gap))]
    return truths, judgments


def values(found: FittedWeights) -> list[float]:
    return [row.weight for row in found.weights]


def test_weights_are_the_logistic_regression_of_scikit_learn() -> None:
    truths, judgments = panel(150)
    found = fit_weights(truths, judgments, REFS)
    by_pair = {(j.comparison_id, j.principle): 0.0 for j in judgments}
    for j in judgments:
        by_pair[j.comparison_id, j.principle] += j.p_a / 2  # type: ignore[operator]
    heard = [t for t in truths if any((t.comparison_id, ref) in by_pair for ref in REFS)]
    x = np.array([[2 * by_pair.get((t.comparison_id, ref), 0.5) - 1 for ref in REFS] for t in heard])
    y = [t.a_better for t in heard]
    oracle = LogisticRegression(C=1 / found.l2, fit_intercept=False, tol=1e-12, max_iter=10_000).fit(x, y)
    assert values(found) == pytest.approx(list(oracle.coef_[0]), abs=1e-6)
    assert found.n + found.unheard == 150 and found.n == len(heard)
    assert [row.n for row in found.weights] == [sum(ref == r for _, r in by_pair) for ref in REFS]
    turned = [Truth(t.comparison_id, t.prompt_id, not t.a_better) for t in truths]
    other = [j.model_copy(update={"p_a": 1 - j.p_a}) for j in judgments]  # type: ignore[operator]
    assert values(fit_weights(turned, other, REFS)) == pytest.approx(values(found), abs=1e-8)
    assert fit_weights(truths[::-1], judgments[::-1], REFS) == found


def test_planted_weights_lie_in_their_intervals_and_beat_the_mean_on_unseen_prompts() -> None:
    inside = 0
    for seed in range(12):
        found = fit_weights(*panel(400, seed), REFS)
        for row, true in zip(found.weights, TRUE, strict=True):
            assert row.interval is not None
            inside += row.interval.low <= true <= row.interval.high
        assert found.loss < found.mean_loss and found.accuracy.count > found.mean_accuracy.count
        assert found.weights[0].interval.low > 0 > found.weights[2].interval.high  # type: ignore[union-attr]
    assert inside >= 29  # of 36 at 95 %, less what the penalty takes


def test_held_out_figures_are_no_better_than_chance_where_labels_are_coins() -> None:
    draw = random.Random(2)
    truths, judgments = panel(300)
    coins = [Truth(t.comparison_id, t.prompt_id, draw.random() < 0.5) for t in truths]
    found = fit_weights(coins, judgments, REFS)
    assert found.accuracy.interval.low < 0.5 and found.loss > math.log(2) - 0.02 and found.l2 >= 1


def test_too_little_to_fit_weights_to() -> None:
    truths, judgments = panel(40, missing=0.0)
    only = [j for j in judgments if j.principle == REFS[0]]
    found = fit_weights(truths, only, REFS)
    assert [(row.weight, row.interval, row.n) for row in found.weights[1:]] == [(0.0, None, 0)] * 2
    one = [Truth(t.comparison_id, "same", t.a_better) for t in truths]
    for few, said in ((one, judgments), (truths, []), ([], judgments)):
        with pytest.raises(DataError, match="labelled comparisons of 2 prompts or more"):
            fit_weights(few, said, REFS)
    two = fit_weights(truths[:2], judgments, REFS)
    assert two.n == 2 and all(math.isfinite(row.weight) for row in two.weights)
