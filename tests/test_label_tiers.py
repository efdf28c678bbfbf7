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
from constitutional.feedback.label import label
from constitutional.pipeline import run_recipe
from constitutional.principles import Principle
from constitutional.records import Comparison, Judgment, Outcome, Preference, Usage, user

PAIR = Comparison(prompt_id="p", messages=(user("?"),), a="one", b="two", origin="sampled")
HALF = Fraction(1, 2)


def judged(ref: str, p: Fraction | None) -> list[Judgment]:
    outcome: Outcome = "not_applicable" if p is None else "preference"
    shared = {
        "comparison_id": PAIR.id, "principle": ref, "principle_digest": "", "template_digest": "", "judge": "j",
        "mode": "logprob", "outcome": outcome, "p_a": None if p is None else float(p), "logprobs": (), "mass": None,
        "usage": Usage(), "seed": 0,
    }  # fmt: skip
    return [Judgment.model_validate({**shared, "key": ref + order, "order": order}) for order in ("ab", "ba")]


def oracle(tiers: list[int], opinions: list[Fraction | None], margin: Fraction) -> tuple[Fraction, set[int]] | None:
    """(p of a, which principles decide), in whole fractions, straight from the words."""
    for rank in range(1, max(tiers) + 1):
        members = [i for i, tier in enumerate(tiers) if tier == rank and opinions[i] is not None]
        if members:
            mean = sum((opinions[i] or Fraction(0) for i in members), Fraction(0)) / len(members)
            if mean <= HALF - margin or mean >= HALF + margin:
                return mean, set(members)
    return None


def check_case(tiers: list[int], opinions: list[Fraction | None], margin: Fraction) -> bool:
    principles = [
        Principle(id=f"p{i}", version="1.0.0", title="t", comparison_request="?", tier=tier, weight=1 + i)
        for i, tier in enumerate(tiers)
    ]
    judgments = [j for p, said in zip(principles, opinions, strict=True) for j in judged(p.ref, said)]
    (found,) = label([PAIR], judgments, principles=principles, rule="tiers", margin=float(margin))
    expected = oracle(tiers, opinions, margin)
    if expected is None:
        assert found.p_a is None and found.abstained and found.judgment_ids == () and found.principles == ()
        return False
    p_a, members = expected
    assert found.p_a == pytest.approx(float(p_a), abs=1e-12) and found.abstained is None
    assert found.principles == tuple(principles[i].ref for i in sorted(members))
    assert set(found.judgment_ids) == {j.id for j in judgments if j.principle in found.principles}
    same = [(opinions[i] or 0) >= HALF for i in members].count(p_a >= HALF)
    assert found.agreement == pytest.approx(same / len(members))
    return True


def test_every_small_case_against_the_definition() -> None:
    """Eighths are exact in floating point, so that the margin itself is met or missed as in fractions."""
    values = [None, *(Fraction(n, 8) for n in (0, 3, 4, 5, 8))]
    seen = [
        check_case(list(tiers), list(opinions), margin)
        for tiers in ((1, 1), (1, 2), (2, 1), (1, 3), (2, 2))
        for opinions in itertools.product(values, repeat=2)
        for margin in (Fraction(0), Fraction(1, 8), Fraction(1, 4), HALF)
    ]
    assert 100 < sum(seen) < len(seen)


def test_many_larger_cases_against_the_definition() -> None:
    draw = random.Random(5)
    for _ in range(400):
        n = draw.randint(3, 7)
        opinions = [None if draw.random() < 0.2 else Fraction(draw.randint(0, 64), 64) for _ in range(n)]
        tiers = [draw.choice((1, 2, 2, 4)) for _ in range(n)]
        sizes = {tiers.count(t) for t in tiers}
        margin = Fraction(draw.randint(0, 32), 64)
        edge = oracle(tiers, opinions, margin) != oracle(tiers, opinions, margin + Fraction(1, 10**9))
        if not (edge and sizes - {1, 2, 4}):  # a mean of three that falls on the margin itself is not exact
            check_case(tiers, opinions, margin)


def test_why_nothing_is_said() -> None:
    principles = [Principle(id="p0", version="1.0.0", title="t", comparison_request="?")]
    undecided, unasked = judged("p0@1.0.0", Fraction(9, 16)), judged("p0@1.0.0", None)
    (found,) = label([PAIR], undecided, principles=principles, rule="tiers", margin=0.125)
    assert found.abstained == "no tier is 0.125 or more from one half"
    (found,) = label([PAIR], unasked, principles=principles, rule="tiers")
    assert found.abstained == "no principle it was judged under applies"


def test_the_rule_in_a_run(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "in")
    constitution = recipe.parent / "constitution.yaml"
    constitution.write_text(constitution.read_text().replace("  - id: kind\n", "  - id: kind\n    tier: 2\n"))

    def labels(*sets: str) -> tuple[list[Preference], set[str]]:
        settings = load_recipe(recipe, ("judging.principles_per_comparison=all", *sets))
        steps = run_recipe(settings, recipe, tmp_path / "run").steps
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
