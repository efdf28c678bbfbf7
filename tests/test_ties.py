"""A p of one half prefers neither answer, whatever it is compared with, and whichever answer is called a."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest

from constitutional.feedback.judging.score import grade_shares, superiority
from constitutional.feedback.label import Opinion, opinions
from constitutional.feedback.label.rules import combined
from constitutional.records import Judgment, Usage


def judged(p_ab: float, p_ba: float) -> Opinion:
    """One principle's opinion, from p of a in both orders."""
    rows = [
        Judgment(
            key=order,
            comparison_id="0" * 16,
            principle="x@1.0.0",
            principle_digest="d",
            template_digest="t",
            judge="J",
            mode="logprob",
            order=order,
            outcome="preference",
            p_a=p,
            logprobs=(),
            mass=None,
            raw=None,
            usage=Usage(),
            seed=0,
        )
        for order, p in (("ab", p_ab), ("ba", p_ba))
    ]
    (found,) = opinions(rows)["0" * 16]
    return found


@pytest.mark.parametrize(
    ("p_ab", "p_ba", "consistent", "same_position"),
    [
        (0.8, 0.7, True, False),
        (0.2, 0.3, True, False),
        (0.8, 0.3, False, True),
        (0.3, 0.8, False, True),
        (0.5, 0.75, False, False),
        (0.5, 0.25, False, False),
        (0.75, 0.5, False, False),
        (0.5, 0.5, False, False),
        (0.5 + 1e-16, 0.5 - 1e-16, False, False),
    ],
)
def test_orders_agree_where_both_prefer_the_same_answer(
    p_ab: float, p_ba: float, consistent: bool, same_position: bool
) -> None:
    # with a and b in each other's place: the first order is then the other one, and p is 1 - p
    for found in (judged(p_ab, p_ba), judged(1 - p_ba, 1 - p_ab)):
        assert (found.consistent, found.same_position) == (consistent, same_position)


def test_a_mean_of_one_half_is_one_half_whatever_the_order_it_is_summed_in() -> None:
    draw = random.Random(0)
    off = 0
    for _ in range(2000):
        votes = [Fraction(draw.randint(0, 10), 10) for _ in range(draw.randint(1, 5))]
        votes.append(Fraction(len(votes) + 1, 2) - sum(votes))
        if not 0 <= votes[-1] <= 1:
            continue
        given = [judged(float(p), float(p)) for p in votes]
        assert combined(given, "mean", None) == 0.5
        off += sum(o.p_a for o in given) / len(given) != 0.5
    assert off  # plain sums miss it
    assert combined([judged(0.5 + 1e-9, 0.5)], "mean", None) > 0.5


def test_equal_grades_give_one_half_and_turned_grades_the_rest() -> None:
    draw = random.Random(1)
    for _ in range(500):
        a, b = (grade_shares([draw.uniform(-9, 0) for _ in range(10)]) for _ in range(2))
        assert superiority(a, a) == 0.5
        assert superiority(a, b) + superiority(b, a) == 1.0
        wins = sum(p * q for i, p in enumerate(a) for j, q in enumerate(b) if i > j)
        ties = sum(p * q for p, q in zip(a, b, strict=True))
        assert superiority(a, b) == pytest.approx(wins + ties / 2, abs=1e-12)
