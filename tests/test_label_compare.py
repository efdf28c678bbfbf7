"""Two label rules side by side: the arithmetic by hand, and on a run that must stay as it is."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from recipes import write_recipe
from typer.testing import CliRunner

from constitutional.audit.trace import render_trace, trace
from constitutional.cli.app import app
from constitutional.config import load_recipe
from constitutional.errors import ConfigError, RunError
from constitutional.feedback.label.compare import compare_labels, comparison_lines
from constitutional.pipeline import run_recipe
from constitutional.pipeline.labelling import compare_rules
from constitutional.records import Preference
from constitutional.runs import StageResult
from constitutional.statistics import wilson

pytestmark = pytest.mark.slow


def preference(number: int, p_a: float | None, *principles: str, why: str | None = None) -> Preference:
    return Preference(
        comparison_id=f"c{number:02d}", p_a=p_a, rule="r", judgment_ids=(), principles=principles, abstained=why
    )


def test_flips_gains_and_losses_by_hand() -> None:
    before = (0.9, 0.6, 0.5, 0.2, None, 0.7, 0.55)
    after = (0.8, 0.3, 0.9, 0.15, 0.6, None, 0.48)
    first = [preference(i, p, "x@1.0.0", why=None if p else "silence") for i, p in enumerate(before)]
    second = [preference(i, p, "y@1.0.0", why=None if p else "gap") for i, p in enumerate(after)]
    found = compare_labels(first, second, rules=("mean", "veto"), largest=3)
    assert (found.comparisons, found.labelled, found.gained, found.lost) == (7, (6, 6), 1, 1)
    assert (found.flips.count, found.flips.n, found.flips.interval) == (2, 5, wilson(2, 5))
    assert found.mean_moved == pytest.approx((0.1 + 0.3 + 0.4 + 0.05 + 0.07) / 5)
    assert found.abstained == ({"silence": 1}, {"gap": 1})
    assert [(c.comparison_id, c.flips) for c in found.largest] == [("c02", False), ("c01", True), ("c00", False)]
    text = "\n".join(comparison_lines(found))
    assert "flips: 2 of 5 labelled by both, 0.400 [0.118, 0.769]; p moves by 0.184 on average" in text
    assert "  c01  0.600 -> 0.300  flips  x@1.0.0 -> y@1.0.0" in text and "veto abstains: 1 x gap" in text
    same = compare_labels(first, first, rules=("mean", "mean"))
    assert same.flips.count == 0 and same.largest == () and same.mean_moved == 0
    nothing = compare_labels([], [], rules=("mean", "veto"))
    assert nothing.mean_moved is None and comparison_lines(nothing)
    with pytest.raises(ValueError, match="side by side"):
        compare_labels(first, second[::-1], rules=("mean", "veto"))


def tree(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.endswith(("-wal", "-shm"))]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose judge has another opinion under one of the principles."""
    recipe = write_recipe(tmp_path_factory.mktemp("rules") / "in")
    model = recipe.parent / "model.yaml"
    against = '  - {anywhere: "Which response is more safe", keyword: sorry, p: 0.02}\n'
    model.write_text(model.read_text().replace("likelihood:\n", "likelihood:\n" + against))
    constitution = recipe.parent / "constitution.yaml"
    constitution.write_text(constitution.read_text().replace("  - id: safe\n", "  - id: safe\n    weight: 9\n"))
    run(recipe, "judging.principles_per_comparison=all", "gate.fallback=provenance")
    return recipe


SETS = ("judging.principles_per_comparison=all", "gate.min_order_consistency=0", "gate.fallback=provenance")


def run(recipe: Path, *sets: str) -> StageResult:
    settings = load_recipe(recipe, sets or SETS)
    steps = run_recipe(settings, recipe, recipe.parent / "run", until="label").steps
    return next(step.result for step in steps if step.name == "label")


def command(recipe: Path, *arguments: str) -> str:
    done = CliRunner().invoke(app, ["label", str(recipe), "--out", str(recipe.parent / "run"), *arguments])
    assert done.exit_code == 0, done.output
    return done.output


def test_a_comparison_says_what_flips_and_leaves_the_run_as_it_is(recipe: Path) -> None:
    before = tree(recipe.parent / "run")
    sets = [part for one in SETS for part in ("--set", one)]
    found = json.loads(command(recipe, *sets, "--rule", "mean", "--compare", "weighted", "--json"))
    # mean of 0.85, 0.85, 0.02 is 0.573; weighted by 1, 1, 9 it is 0.171; two answers without "sorry" are at one half
    assert 3 < found["flips"]["count"] < found["flips"]["n"] == found["comparisons"]
    moved = {round(abs(change["moved"]), 6) for change in found["largest"]}
    assert moved <= {round((0.85 * 2 + 0.02) / 3 - (0.85 * 2 + 9 * 0.02) / 11, 6)}
    assert found["largest"][0]["principles_first"] == ["kind@1.0.0", "honest@1.0.0", "safe@1.0.0"]
    text = command(recipe, *sets, "--compare", "calibrated")
    assert "flips:" in text and "weights fitted to 12 labelled comparisons" in text and "  safe@1.0.0: -" in text
    assert "safe@1.0.0" in command(recipe, *sets, "--compare", "dominant")
    assert tree(recipe.parent / "run") == before
    bad = CliRunner().invoke(app, ["label", str(recipe), "--rule", "mean"])
    assert bad.exit_code == 2 and "goes with --compare" in bad.output.replace("\n", " ").replace("go with", "goes with")
    with pytest.raises(ConfigError, match=r"no label rule 'vetoo' \(did you mean 'veto'"):
        compare_rules(load_recipe(recipe), recipe, recipe.parent / "run", None, "vetoo")
    with pytest.raises(RunError, match="not a run folder"):
        compare_rules(load_recipe(recipe), recipe, recipe.parent / "none", None, "veto")


def test_fits_are_kept_in_the_run_and_a_trace_makes_the_label_again(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "in")
    plain = run(recipe)
    sets = (*SETS, "label.rule=calibrated", "label.calibration=platt")
    fitted = run(recipe, *sets)
    assert fitted.key != plain.key and {"weights.json", "calibrations.jsonl"} <= fitted.manifest.outputs.keys()
    weights = json.loads((fitted.folder / "weights.json").read_text())
    assert weights["n"] == 12 and [row["n"] for row in weights["weights"]] == [4, 4, 4]
    labels = fitted.records(Preference)
    assert {p.rule for p in labels} == {"calibrated"} and all(p.p_a is not None for p in labels)
    text = render_trace(trace(tmp_path / "in/run", labels[0].id))
    assert "PROBLEM" not in text and "made again from its judgments" in text and "calibrated judge:" in text
    assert "weights fitted to 12" in render_trace(trace(tmp_path / "in/run", fitted.key))
    (fitted.folder / "weights.json").write_text(json.dumps({**weights, "weights": []}) + "\n")
    with pytest.raises(RunError, match="not the file its manifest names"):
        trace(tmp_path / "in/run", labels[0].id)
    assert run(recipe).key == plain.key


def test_settings_of_labels_change_their_step_and_nothing_else(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "in")
    keys = {run(recipe, *SETS, *more).key for more in (
        (), ("label.order_gap=0.2",), ("label.min_mass=0.5",), ("label.disagreement=0.3",), ("label.rule=veto",),
        ("label.rule=veto", "label.veto=[kind]"), ("label.rule=veto", "label.margin=0.3"), ("label.rule=dominant",),
        ("label.calibration=temperature",), ("label.calibration=temperature", "label.fitted_to=examples"),
    )}  # fmt: skip
    assert len(keys) == 10
    assert run(recipe, *SETS, "label.veto=2", "label.margin=0.3", "label.fitted_to=human").key in keys
    abstained = {p.abstained for p in run(recipe, *SETS, "label.min_mass=1").records(Preference)}
    assert abstained <= {None, "the options have less than 1.0 of the judge's probability"}
    with pytest.raises(ConfigError, match=r"label.veto: no principle 'knid' to judge under \(did you mean 'kind'"):
        run(recipe, *SETS, "label.rule=veto", "label.veto=[knid]")
    with pytest.raises(ConfigError, match=r"label\.veto: no principle that judges is of tier 4"):
        run(recipe, *SETS, "label.rule=veto", "label.veto=4")
