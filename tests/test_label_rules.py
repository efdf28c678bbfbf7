"""The label rules against hand-computed values, and what every rule must keep to whatever it is given."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from constitutional.errors import DataError
from constitutional.feedback.label import Limits, Rule, label
from constitutional.feedback.label.calibration import Calibration, calibrated
from constitutional.feedback.label.rules import logistic, shares
from constitutional.principles import Principle
from constitutional.records import Comparison, Judgment, Outcome, Preference, Usage, user
from constitutional.statistics import Interval

PAIR = Comparison(prompt_id="p", messages=(user("?"),), a="one", b="two", origin="sampled")
RULES: tuple[Rule, ...] = ("sampled", "mean", "weighted", "tiers", "veto", "dominant", "calibrated")
ZERO = Interval(low=0, high=0)
CALIBRATION = Calibration(
    judge="j", method="platt", slope=0.7, slope_interval=ZERO, intercept=0.3, intercept_interval=ZERO, judgments=1,
    labels="", loss_before=0, loss_after=0,
)  # fmt: skip


def principle(number: int, **fields: object) -> Principle:
    return Principle.model_validate(
        {"id": f"p{number}", "version": "1.0.0", "title": "t", "comparison_request": "?", **fields}
    )


def one(number: int, order: str, p_a: float | None, outcome: Outcome = "preference", mass: float = 0.9) -> Judgment:
    return Judgment.model_validate({
        "key": f"{number}{order}", "comparison_id": PAIR.id, "principle": f"p{number}@1.0.0", "principle_digest": "",
        "template_digest": "", "judge": "j", "mode": "logprob", "order": order, "outcome": outcome, "p_a": p_a,
        "logprobs": (), "mass": mass, "usage": Usage(), "seed": 0,
    })  # fmt: skip


def both(number: int, ab: float, ba: float | None = None, mass: float = 0.9) -> list[Judgment]:
    """One principle's judgments; `ba` is `ab` where it is not given."""
    return [one(number, "ab", ab, mass=mass), one(number, "ba", ab if ba is None else ba, mass=mass)]


def labelled(said: Sequence[Judgment], principles: Sequence[Principle], rule: Rule, **more: object) -> Preference:
    (found,) = label([PAIR], said, principles=principles, rule=rule, **more)  # type: ignore[arg-type]
    return found


THREE = [principle(0, tier=1), principle(1, tier=2), principle(2, tier=2)]


@pytest.mark.parametrize(
    ("p", "veto", "expected"),
    [
        ((0.25, 0.9, 0.9), 1, (0.25, {0})),  # decisive against a: alone
        ((0.45, 0.9, 0.9), 1, (0.75, {0, 1, 2})),  # not decisive: all
        ((0.25, 0.9, 0.8), 2, (0.85, {1, 2})),  # the second tier has it
        ((0.25, 0.9, 0.45), ("p0", "p2"), (0.25, {0})),
        ((0.25, 0.9, 0.3), ("p0", "p2"), (0.275, {0, 2})),  # two vetoes against the same answer
        ((0.25, 0.9, 0.8), ("p0", "p1"), "both answers are vetoed"),
        ((0.4, 0.9, 0.8), 1, (0.4, {0})),  # the margin itself is met, in tenths too
    ],
)
def test_a_veto_decides_alone_where_it_is_decisive(p, veto, expected) -> None:
    said = [j for i, value in enumerate(p) for j in both(i, value)]
    found = labelled(said, THREE, "veto", margin=0.1, veto=veto)
    if isinstance(expected, str):
        assert (found.p_a, found.abstained, found.principles) == (None, expected, ())
        return
    assert found.p_a == pytest.approx(expected[0], abs=1e-12) and found.abstained is None
    assert found.principles == tuple(THREE[i].ref for i in sorted(expected[1]))
    assert found.judgment_ids == tuple(j.id for j in said if j.principle in found.principles)


def test_a_veto_that_could_not_be_read_is_not_passed_over() -> None:
    unread = [one(0, "ab", None, "error"), one(0, "ba", 0.2), *both(1, 0.9), *both(2, 0.8)]
    found = labelled(unread, THREE, "veto")
    assert found.p_a is None and found.abstained == "p0@1.0.0, which has a veto, could not be read"
    assert labelled(unread, THREE, "veto", veto=("p0", "p1")).p_a == 0.9  # another one is cast
    assert labelled(unread, THREE, "veto", veto=("p1",), margin=0.45).p_a == pytest.approx(0.85)
    none = [one(0, order, None, "not_applicable") for order in ("ab", "ba")]
    assert labelled([*none, *both(1, 0.9), *both(2, 0.8)], THREE, "veto").p_a == pytest.approx(0.85)


def test_the_most_decisive_principle_dominates() -> None:
    said = both(0, 0.3) + both(1, 0.9, 0.8) + both(2, 0.6)
    found = labelled(said, THREE, "dominant")
    assert (found.p_a, found.principles, found.agreement) == (pytest.approx(0.85), ("p1@1.0.0",), 1.0)
    tied = labelled(both(0, 0.8) + both(1, 0.9, 0.7) + both(2, 0.4), THREE, "dominant")
    assert tied.p_a == pytest.approx(0.8) and tied.principles == ("p0@1.0.0", "p1@1.0.0")
    torn = labelled(both(0, 0.8) + both(1, 0.2), THREE, "dominant")
    assert torn.p_a is None and torn.abstained == "the most decisive principles contradict one another"
    assert labelled(both(0, 0.5) + both(1, 0.5), THREE, "dominant").p_a == 0.5


def test_fitted_weights_make_the_logistic_of_their_sum() -> None:
    weights = {"p0@1.0.0": 2.0, "p1@1.0.0": -0.5, "p2@1.0.0": 0.0}
    found = labelled(both(0, 0.75) + both(1, 0.9) + both(2, 0.1), THREE, "calibrated", weights=weights)
    assert found.p_a == pytest.approx(1 / (1 + 2.718281828459045 ** -(2.0 * 0.5 - 0.5 * 0.8)), abs=1e-12)
    assert found.principles == ("p0@1.0.0", "p1@1.0.0")  # a weight of nothing takes no part
    assert labelled(both(2, 0.1), THREE, "calibrated", weights=weights).abstained == (
        "no principle it was judged under has a fitted weight"
    )
    with pytest.raises(DataError, match="needs weights"):
        labelled(both(0, 0.75), THREE, "calibrated")
    assert logistic(-800) == 0.0 and logistic(800) == 1.0


def test_a_label_abstains_at_each_limit_and_says_why_and_from_what() -> None:
    said = both(0, 0.9, 0.5, mass=0.8) + both(1, 0.7, 0.5, mass=0.4) + both(2, 0.35, mass=0.9)
    # gaps 0.4, 0.2, 0 (mean 0.2); masses 0.8, 0.4, 0.9 (mean 0.7); one of three against the label
    cases = [
        (Limits(order_gap=0.19), "p moves by more than 0.19 when the order is turned"),
        (Limits(order_gap=0.21), None),
        (Limits(min_mass=0.71), "the options have less than 0.71 of the judge's probability"),
        (Limits(min_mass=0.69), None),
        (Limits(disagreement=0.33), "more than 0.33 of the principles prefer the other answer"),
        (Limits(disagreement=0.34), None),
        (Limits(), None),
    ]
    for limits, why in cases:
        found = labelled(said, THREE, "mean", limits=limits)
        assert found.abstained == why and (found.p_a is None) == (why is not None)
        assert len(found.judgment_ids) == 6 and len(found.principles) == 3
    alone = labelled(said, THREE, "dominant", limits=Limits(disagreement=0.3))
    assert alone.principles == ("p0@1.0.0",) and alone.abstained  # all that were heard count, not those that decide
    checks = [j.model_copy(update={"mass": None}) for j in both(0, 1.0)]
    assert labelled(checks, THREE, "mean", limits=Limits(min_mass=0.9)).p_a == 1.0


def test_shares_add_up() -> None:
    assert shares(["a", "b"], None) == {"a": 0.5, "b": 0.5}
    assert shares(["a", "b"], {"a": -3.0, "b": 1.0}) == {"a": 0.75, "b": 0.25}
    assert shares([], None) == {}


Opinions = list[tuple[float | None, float | None]]
number = st.one_of(st.none(), st.sampled_from([0.0, 0.25, 0.4, 0.5, 0.6, 1.0]), st.floats(0, 1))
opinions = st.lists(st.tuples(number, number), min_size=1, max_size=6)


def judgments_of(said: Opinions, *, turned: bool = False) -> list[Judgment]:
    """Judgments of the pair, or of the pair with a and b in each other's place: order ab is then order ba."""
    found = []
    for i, pair in enumerate(said):
        for order, p in zip(("ab", "ba"), reversed(pair) if turned else pair, strict=True):
            value = None if p is None else 1 - p if turned else p
            found.append(one(i, order, value, "preference" if p is not None else "error"))
    return found


@settings(deadline=None, max_examples=250)
@given(
    said=opinions, rule=st.sampled_from(RULES), margin=st.sampled_from([0.0, 0.1, 0.25]), seed=st.integers(0, 2**32),
    limits=st.sampled_from([Limits(), Limits(0.3, 0.5, 0.34)]), mended=st.booleans(),
)  # fmt: skip
def test_every_rule_is_blind_to_the_order_of_judgments_and_turns_with_the_answers(
    said: Opinions, rule: Rule, margin: float, seed: int, limits: Limits, mended: bool
) -> None:
    draw = random.Random(seed)
    count = len(said)
    principles = [principle(i, tier=draw.choice((1, 1, 2)), weight=draw.choice((1, 3))) for i in range(count)]
    weights = {p.ref: draw.choice((-0.5, 0.0, 1.0, 2.0)) for p in principles}
    terms = {"margin": margin, "seed": seed, "weights": weights, "limits": limits}
    terms |= {"reading": calibrated([CALIBRATION])} if mended else {}
    judgments = judgments_of(said)
    found = labelled(judgments, principles, rule, **terms)
    shuffled = draw.sample(judgments, len(judgments))
    assert labelled(shuffled, principles, rule, **terms) == found
    other = labelled(judgments_of(said, turned=True), principles, rule, **terms)
    assert (other.p_a is None) == (found.p_a is None)
    assert other.abstained == found.abstained and other.principles == found.principles
    if found.p_a is not None and other.p_a is not None:
        assert other.p_a == pytest.approx(1 - found.p_a, abs=1e-9)
