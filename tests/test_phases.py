"""`phases`: where a principle is left out, it is asked nothing, drawn for nothing and decides nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from recipes import run_again, write_recipe

from constitutional.errors import ConfigError
from constitutional.pipeline import RunOutcome
from constitutional.records import Judgment, Preference, Revision

pytestmark = pytest.mark.slow

KIND, HONEST, SAFE = (f"{name}@1.0.0" for name in ("kind", "honest", "safe"))


def with_phases(recipe: Path, **phases: str) -> None:
    """Gives principles of the small constitution their phases."""
    path = recipe.parent / "constitution.yaml"
    text = path.read_text()
    for name, value in phases.items():
        line = f"  - id: {name}\n"
        assert line in text
        text = text.replace(line, f"{line}    phases: {value}\n")
    path.write_text(text)


def run(recipe: Path, out: Path, *sets: str) -> RunOutcome:
    return run_again(recipe, out, *sets)


def asked(outcome: RunOutcome) -> dict[str, set[str]]:
    """The principles each step used."""
    steps = {step.name: step.result for step in outcome.steps}
    found = {"revise": {r.principle for revision in steps["revise"].records(Revision) for r in revision.rounds}}
    for name in ("gate", "judge"):
        found[name] = {judgment.principle for judgment in steps[name].records(Judgment)}
    rows = steps["evaluate"].manifest.settings["principles"]  # without a trained model there is no pair to judge
    found["evaluate"] = {str(row[0]) for row in rows}
    found["label"] = {ref for label in steps["label"].records(Preference) for ref in label.principles}
    return found


def test_a_principle_left_out_of_a_phase_takes_no_part_in_it(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "in", prompts=30)
    sets = ("judging.principles_per_comparison=all", "evaluation.principles_per_comparison=all")
    everywhere = {KIND, HONEST, SAFE}
    before = asked(run(recipe, tmp_path / "run", *sets))
    assert before == dict.fromkeys(before, everywhere)
    with_phases(recipe, kind="[revise, judge]", honest="[revise, evaluate]", safe="[judge, evaluate]")
    result = run(recipe, tmp_path / "run", *sets)
    assert asked(result) == {
        "revise": {KIND, HONEST},
        "gate": {KIND, SAFE},
        "judge": {KIND, SAFE},
        "label": {KIND, SAFE},
        "evaluate": {HONEST, SAFE},
    }


def test_phases_that_leave_every_step_as_it_was_recompute_nothing(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "in")
    run(recipe, tmp_path / "run")
    with_phases(recipe, kind="[evaluate, revise, judge]")
    assert {step.reused for step in run(recipe, tmp_path / "run").steps} == {True}
    with_phases(recipe, honest="[revise, judge]")
    again = run(recipe, tmp_path / "run").steps
    assert {step.name for step in again if not step.reused} == {"evaluate"}


@pytest.mark.parametrize("phase", ["revise", "judge", "evaluate"])
def test_a_phase_without_a_principle_stops_only_a_recipe_that_has_it(tmp_path: Path, phase: str) -> None:
    recipe = write_recipe(tmp_path / "in", prompts=6)
    others = [name for name in ("revise", "judge", "evaluate") if name != phase]
    with_phases(recipe, **dict.fromkeys(("kind", "honest", "safe"), f"[{', '.join(others)}]"))
    with pytest.raises(ConfigError, match=f"constitution tiny@1.0.0: no principle takes part in '{phase}'"):
        run(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    stages = {
        "revise": "[sample, gate, answers, evaluate]",
        "judge": "[revise, helpful, sample, answers, evaluate]",
        "evaluate": "[revise, helpful, sample, gate, judge, label, answers]",
    }[phase]
    assert run(recipe, tmp_path / "run", f"stages={stages}").steps


def test_a_principle_named_to_revise_under_must_take_part(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "in")
    with_phases(recipe, kind="[judge]")
    with pytest.raises(ConfigError, match=r"revise\.principles: no principle 'kind' to revise under"):
        run(recipe, tmp_path / "run", "revise.principles=[kind]")
