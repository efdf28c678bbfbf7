"""The label rule `tiers` against a reading of its definition, and in a run."""

from __future__ import annotations

import itertools
import random
from fractions import Fraction
from pathlib import Path

import pytest
from recipes import write_recipe

from constitutional.audit.trace import render_trace, trace
from constitutional.config import load_recipe
from constitutional.constitution import load_constitution
from constitutional.feedback.label import label
from constitutional.pipeline import run_recipe
from constitutional.principles import Principle
from constitutional.records import Comparison, Judgment, Outcome, Preference, Usage, user

pytestmark = pytest.mark.slow

PAIR = Comparison(prompt_id="p", messages=(user("?"),), a="one", b="two", origin="sampled")
HALF = Fraction(1, 2)


Said = Fraction | Outcome
"""What a principle says of the pair: its p of a, or the outcome of a judgment without one."""


def judged(ref: str, said: Said) -> list[Judgment]:
    """Both orders; where an outcome is given the second order alone has it."""
    p = said if isinstance(said, Fraction) else None
    shared = {
        "comparison_id": PAIR.id, "principle": ref, "principle_digest": "", "template_digest": "", "judge": "j",
        "mode": "logprob", "logprobs": (), "mass": None, "usage": Usage(), "seed": 0,
    }  # fmt: skip
    number = {"outcome": "preference", "p_a": 0.9 if p is None else float(p)}
    silent = number if isinstance(said, Fraction) else {"outcome": said, "p_a": None}
    first = silent if said in ("not_applicable", "tie") else number
    return [
        Judgment.model_validate({**shared, **one, "key": ref + order, "order": order})
        for order, one in (("ab", first), ("ba", silent))
    ]


def oracle(tiers: list[int], opinions: list[Said], margin: Fraction) -> tuple[Fraction, set[int]] | str:
    """(p of a, which principles decide), in whole fractions, straight from the words; or why there is none."""
    for rank in range(1, max(tiers) + 1):
        here = {i: opinions[i] for i, tier in enumerate(tiers) if tier == rank}
        numbers = {i: said for i, said in here.items() if isinstance(said, Fraction)}
        if numbers:
            mean = sum(numbers.values(), Fraction(0)) / len(numbers)
            if mean <= HALF - margin or mean >= HALF + margin:
                return mean, set(numbers)
        if {"error", "invalid", "refused"} & set(here.values()):
            return f"tier {rank} could not be read"
    return "" if any(isinstance(said, Fraction) for said in opinions) else "nothing"


def check_case(tiers: list[int], opinions: list[Said], margin: Fraction) -> bool:
    principles = [
        Principle(id=f"p{i}", version="1.0.0", title="t", comparison_request="?", tier=tier, weight=1 + i)
        for i, tier in enumerate(tiers)
    ]
    judgments = [j for p, said in zip(principles, opinions, strict=True) for j in judged(p.ref, said)]
    (found,) = label([PAIR], judgments, principles=principles, rule="tiers", margin=float(margin))
    expected = oracle(tiers, opinions, margin)
    if isinstance(expected, str):
        assert found.p_a is None and found.judgment_ids == () and found.principles == ()
        if expected in ("", "nothing"):
            assert (found.abstained == f"no tier is {float(margin)} or more from one half") == (expected == "")
        else:
            assert found.abstained == expected
        return False
    p_a, members = expected
    assert found.p_a == pytest.approx(float(p_a), abs=1e-12) and found.abstained is None
    assert found.principles == tuple(principles[i].ref for i in sorted(members))
    assert set(found.judgment_ids) == {j.id for j in judgments if j.principle in found.principles}
    sides = [(said > HALF) - (said < HALF) for i in members if isinstance(said := opinions[i], Fraction)]
    same = sides.count((p_a > HALF) - (p_a < HALF))
    assert found.agreement == pytest.approx(same / len(members))
    return True


def test_every_small_case_against_the_definition() -> None:
    """Eighths are exact in floating point, so that the margin itself is met or missed as in fractions."""
    silent: tuple[Outcome, ...] = ("not_applicable", "tie", "error", "invalid")
    values: list[Said] = [*silent, *(Fraction(n, 8) for n in (0, 3, 4, 5, 8))]
    seen = [
        check_case(list(tiers), list(opinions), margin)
        for tiers in ((1, 1), (1, 2), (2, 1), (1, 3), (2, 2))
        for opinions in itertools.product(values, repeat=2)
        for margin in (Fraction(0), Fraction(1, 8), Fraction(1, 4), HALF)
    ]
    assert 100 < sum(seen) < len(seen)


def test_the_margin_itself_is_met_in_tenths_too() -> None:
    """0.6 - 0.5 is less than 0.1 in floating point."""
    seen = [
        check_case([tier, 3], [Fraction(n, 10), "error"], Fraction(m, 10))
        for tier in (1, 3)
        for n in range(11)
        for m in range(6)
    ]
    assert sum(seen) == 2 * sum(abs(n - 5) >= m for n in range(11) for m in range(6))


def test_many_larger_cases_against_the_definition() -> None:
    draw = random.Random(5)
    for _ in range(400):
        n = draw.randint(3, 7)
        silent: list[Outcome] = ["not_applicable", "tie", "refused", "error", "invalid"]
        opinions: list[Said] = [
            draw.choice(silent) if draw.random() < 0.3 else Fraction(draw.randint(0, 64), 64) for _ in range(n)
        ]
        tiers = [draw.choice((1, 2, 2, 4)) for _ in range(n)]
        check_case(tiers, opinions, Fraction(draw.randint(0, 32), 64))


def test_why_nothing_is_said() -> None:
    principles = [Principle(id="p0", version="1.0.0", title="t", comparison_request="?")]
    undecided, unasked = judged("p0@1.0.0", Fraction(9, 16)), judged("p0@1.0.0", "not_applicable")
    (found,) = label([PAIR], undecided, principles=principles, rule="tiers", margin=0.125)
    assert found.abstained == "no tier is 0.125 or more from one half"
    (found,) = label([PAIR], unasked, principles=principles, rule="tiers")
    assert found.abstained == "no principle it was judged under applies"
    (found,) = label([PAIR], judged("p0@1.0.0", "error"), principles=principles, rule="tiers")
    assert found.abstained == "tier 1 could not be read"
    mended = [*judged("p0@1.0.0", "error"), *judged("p0@1.0.0", Fraction(1, 4))]  # asked again
    (found,) = label([PAIR], mended, principles=principles, rule="tiers")
    assert found.p_a == 0.25


def test_the_rule_in_a_run(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "in")
    constitution = recipe.parent / "constitution.yaml"
    constitution.write_text(constitution.read_text().replace("  - id: kind\n", "  - id: kind\n    tier: 2\n"))

    def labels(*sets: str) -> tuple[list[Preference], set[str]]:
        settings = load_recipe(recipe, ("judging.principles_per_comparison=all", *sets))
        now = load_constitution(str(constitution)).digest
        steps = run_recipe(settings, recipe, tmp_path / "run", accept_constitution=now).steps
        found = next(step.result for step in steps if step.name == "label").records(Preference)
        return found, {step.name for step in steps if not step.reused}

    labels()
    found, redone = labels("label.rule=tiers", "label.margin=0.2")
    assert redone == {"label"} and {p.rule for p in found} == {"tiers"}
    named = {p.principles for p in found if p.p_a is not None}
    assert named and all("kind@1.0.0" not in refs or refs == ("kind@1.0.0",) for refs in named)
    cited = next(p.id for p in found if p.p_a is not None)
    assert "PROBLEM" not in render_trace(trace(tmp_path / "run", cited))
    assert labels("label.rule=tiers", "label.margin=0.4")[1] == {"label"}
    constitution.write_text(constitution.read_text().replace("tier: 2", "tier: 3"))
    assert labels("label.rule=tiers", "label.margin=0.2")[1] == {"label"}
    assert labels("label.rule=mean", "label.margin=0.3")[1] == set()  # neither tiers nor margin concern another rule
