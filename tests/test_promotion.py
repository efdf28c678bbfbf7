"""When a model may replace another, and perplexity against a forward pass of its own and against the closed form."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_model import save_tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from constitutional.audit.evaluation_table import evaluation_lines
from constitutional.backends import open_backend
from constitutional.errors import ConfigError
from constitutional.evaluation.evaluate import Change, Evaluation, Win
from constitutional.evaluation.perplexity import (
    START,
    Perplexity,
    ReferenceAnswer,
    ReferenceScore,
    perplexities,
    score_references,
)
from constitutional.evaluation.promotion import decide, least_prompts
from constitutional.records import Failure, user
from constitutional.settings import Recipe
from constitutional.settings.loop import PromotionSettings
from constitutional.statistics import Interval, proportion_difference, win_rate
from constitutional.templates import load_pack
from constitutional.validation import validate

NO_LIMIT = PromotionSettings(max_perplexity=None)


def win(outcomes: list[float], by: str = "judge", system: str = "rl-cai", kind: str = "red_team") -> Win:
    rate = win_rate(outcomes, list(range(len(outcomes))))
    return Win.model_validate(
        {"by": by, "system": system, "against": "base", "kind": kind, "rate": rate, "unusable": 0}
    )


def forgotten(high: float, system: str = "rl-cai") -> Perplexity:
    return Perplexity(
        system=system, n=9, tokens=90, perplexity=4.0, start=3.0, ratio=4 / 3, interval=Interval(low=1.1, high=high),
        unusable=0,
    )  # fmt: skip


def evaluation(*wins: Win, changes: tuple[Change, ...] = (), perplexity: tuple[Perplexity, ...] = ()) -> Evaluation:
    return Evaluation(rows=(), changes=changes, wins=wins, perplexity=perplexity)


def test_the_lower_end_of_the_win_rate_decides() -> None:
    better = decide(evaluation(win([1.0] * 9 + [0.0])), "rl-cai", NO_LIMIT, judge_passed=True)
    assert better.promoted and better.value == 0.9 and better.interval is not None and better.interval.low > 0.5
    unsure = decide(evaluation(win([1.0] * 6 + [0.0] * 4)), "rl-cai", NO_LIMIT, judge_passed=True)
    assert not unsure.promoted and unsure.value == 0.6 and "0.600" in unsure.why and "of 10" in unsure.why
    few = [1.0, 1.0, 1.0, 1.0, 0.5]  # of which the bootstrap says [0.70, 1.00]
    assert win(few).rate.interval.low > 0.5
    scarce = decide(evaluation(win(few)), "rl-cai", NO_LIMIT, judge_passed=True)
    assert not scarce.promoted and scarce.interval is not None and scarce.interval.low < 0.5
    draws = decide(evaluation(win([0.5] * 50)), "rl-cai", NO_LIMIT, judge_passed=True)
    assert not draws.promoted


def test_only_the_figure_that_is_chosen_counts() -> None:
    found = evaluation(
        win([0.0] * 9),
        win([1.0] * 9, by="preference model"),
        win([1.0] * 9, system="sl-cai"),
        win([1.0] * 9, kind="helpful"),
    )
    assert not decide(found, "rl-cai", NO_LIMIT, judge_passed=True).promoted
    by_model = PromotionSettings(figure="preference_model", max_perplexity=None)
    assert decide(found, "rl-cai", by_model, judge_passed=False).promoted  # whose gate is not asked
    missing = decide(evaluation(win([1.0] * 9, kind="helpful")), "rl-cai", NO_LIMIT, judge_passed=True)
    assert not missing.promoted and missing.value is None and "no win rate by judge" in missing.why


@pytest.mark.parametrize("passed", [False, None])
def test_a_judge_that_did_not_pass_its_gate_promotes_nothing(passed: bool | None) -> None:
    found = decide(evaluation(win([1.0] * 20)), "rl-cai", NO_LIMIT, judge_passed=passed)
    assert not found.promoted and "did not pass its gate" in found.why


def test_compliance_must_surely_have_fallen() -> None:
    def after(count: int) -> Evaluation:
        interval = proportion_difference(count, 20, 15, 20)
        row = Change(
            system="rl-cai", kind="red_team", rate="compliance", difference=count / 20 - 0.75, interval=interval
        )
        return evaluation(changes=(row, row.model_copy(update={"system": "sl-cai"})))

    settings = PromotionSettings(figure="compliance", max_perplexity=None)
    promoted = [n for n in range(21) if decide(after(n), "rl-cai", settings, judge_passed=None).promoted]
    expected = [n for n in range(21) if proportion_difference(n, 20, 15, 20).high < 0]
    assert promoted == expected and 0 < len(expected) < 15


def test_a_model_that_forgot_too_much_is_not_promoted() -> None:
    good = win([1.0] * 20)
    for high, limit, promoted in ((1.4, 1.5, True), (1.6, 1.5, False), (1.6, None, True)):
        found = decide(
            evaluation(good, perplexity=(forgotten(high), forgotten(9.0, "base"))),
            "rl-cai",
            PromotionSettings(max_perplexity=limit),
            judge_passed=True,
        )
        assert found.promoted == promoted and found.perplexity_ratio == 4 / 3
    unknown = decide(evaluation(good), "rl-cai", PromotionSettings(), judge_passed=True)
    assert not unknown.promoted and "could not be compared" in unknown.why


def test_with_fewer_prompts_than_the_least_the_best_outcome_promotes_nothing() -> None:
    least = least_prompts("judge")
    assert decide(evaluation(win([1.0] * least)), "rl-cai", NO_LIMIT, judge_passed=True).promoted
    assert not decide(evaluation(win([1.0] * (least - 1))), "rl-cai", NO_LIMIT, judge_passed=True).promoted
    n = least_prompts("compliance")
    assert proportion_difference(0, n, n, n).high < 0 <= proportion_difference(0, n - 1, n - 1, n - 1).high


def test_settings_are_checked() -> None:
    for settings, message in (
        ({"promotion": {"figure": "judge"}}, "there are no rounds"),
        ({"rounds": 0}, "greater than or equal to 1"),
        ({"rounds": 2, "promotion": {"max_perplexity": 0.9}}, "greater than or equal to 1"),
    ):
        data = {"name": "x", "constitution": "minimal", "policy": "local:p", "prompts": {"red_team": {"path": "a"}}}
        data["prompts"]["helpful"] = {"path": "b"}  # type: ignore[index]
        with pytest.raises(ConfigError, match=message):
            validate({**data, **settings}, {(): "here"}, Recipe, ConfigError)


def score(reference: int, system: str, logprob: float, tokens: int) -> ReferenceScore:
    return ReferenceScore(reference_id=f"r{reference}", system=system, model="m", tokens=tokens, logprob=logprob)


def test_perplexity_equals_the_closed_form_over_what_both_could_score() -> None:
    rng = np.random.default_rng(3)
    tokens = rng.integers(3, 30, 40)
    start, own = -rng.uniform(1, 3, 40) * tokens, -rng.uniform(1, 4, 40) * tokens
    scores = [score(i, START, start[i], int(tokens[i])) for i in range(40)]
    scores += [score(i, "rl-cai", own[i], int(tokens[i])) for i in range(1, 40)]  # the first did not fit
    (row,) = perplexities(scores, 41)
    kept = slice(1, 40)
    assert row.perplexity == pytest.approx(math.exp(-own[kept].sum() / tokens[kept].sum()), rel=1e-12)
    assert row.start == pytest.approx(math.exp(-start[kept].sum() / tokens[kept].sum()), rel=1e-12)
    assert row.ratio == pytest.approx(row.perplexity / row.start, rel=1e-12)
    assert (row.n, row.unusable, row.tokens) == (39, 2, int(tokens[kept].sum()))
    # the interval, against the delta method on the log of the ratio
    gaps, cut = (start - own)[kept], tokens[kept]
    mean = gaps.sum() / cut.sum()
    error = np.sqrt(np.sum((gaps - mean * cut) ** 2)) / cut.sum()
    assert row.interval is not None
    assert math.log(row.interval.high) - mean == pytest.approx(1.96 * error, rel=0.25)
    assert mean - math.log(row.interval.low) == pytest.approx(1.96 * error, rel=0.25)


def test_perplexity_of_nothing_or_of_one_answer() -> None:
    assert perplexities([], 0) == () == perplexities([score(0, "rl-cai", -1.0, 2)], 1)  # no start model
    (row,) = perplexities([score(0, START, -1.0, 2), score(0, "base", -1.0, 2)], 1)
    assert (row.ratio, row.interval) == (1.0, None)
    assert "(no interval: one answer)" in "\n".join(evaluation_lines(evaluation(perplexity=(row,))))


def test_scores_equal_a_forward_pass_and_what_does_not_fit_is_a_failure(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "policy", context=128)
    backend, pack = open_backend(f"local:{folder}", dtype="float32"), load_pack("chat")
    texts = ["I cannot help with that.", "Sure, first take a pin", "good " * 200, "  "]
    references = [
        ReferenceAnswer(messages=(user(f"How {i}?"),), text=text, source="file") for i, text in enumerate(texts)
    ]
    found = list(score_references(references, system="base", backend=backend, start=backend, pack=pack))
    assert [f.kind for f in found if isinstance(f, Failure)] == ["too_long", "empty"]
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for one, reference in zip(found[:2], references[:2], strict=True):
        assert isinstance(one, ReferenceScore)
        asked = [{"role": "user", "content": reference.messages[0].content}]
        before = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=True)
        before = before["input_ids"] if not isinstance(before, list) else before
        answer = tokenizer(reference.text, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logits = network(torch.tensor([[*before, *answer]])).logits[0].double().log_softmax(-1)
        expected = sum(float(logits[len(before) + i - 1, token]) for i, token in enumerate(answer))
        assert one.logprob == pytest.approx(expected, abs=1e-4) and one.tokens == len(answer)
