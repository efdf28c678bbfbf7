"""RLHF, RLAIF and both from one recipe, on a tiny policy: what is shared, what is equal, what is told, what refused."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from recipes import write_recipe
from tiny_model import save_tiny_model
from typer.testing import CliRunner

from constitutional.audit.arms import Arms, render_arms
from constitutional.audit.current import open_view
from constitutional.audit.index import record_id
from constitutional.audit.trace import problems, trace
from constitutional.cli.app import app
from constitutional.config import load_recipe
from constitutional.errors import ConfigError, DataError, RunError, TrainingError
from constitutional.pipeline import run_arms, run_recipe
from constitutional.runs import load_result
from constitutional.training.rows import PreferenceRow

pytestmark = pytest.mark.slow

SETS = (
    "stages=[revise, helpful, sft, sample, gate, judge, label, pm, rl]",
    "policy=local:policy",
    "feedback=scripted:model.yaml",
    "dtype=float32",
    "sampling.policy={temperature: 1.0, max_tokens: 6}",
    "revise={rounds: 1}",
    "sample={revisions: true}",
    "sft={drop_flagged: false, trl: {max_steps: 1, learning_rate: 0.01}}",
    "pm={heldout: 0.2, human: [{path: people.jsonl, weight: 2}], trl: {learning_rate: 0.01, num_train_epochs: 1}}",
    "rl={steps: 1, generations: 2, prompts_per_step: 2, max_tokens: 4, trl: {learning_rate: 0.01}}",
    "evaluation={temperature: 0}",
)
JUDGE = "scripted:other.yaml"
DPO = "rl={algorithm: dpo, trl: {num_train_epochs: 1, learning_rate: 0.01}}"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("arms")
    path = write_recipe(folder)
    save_tiny_model(folder / "policy", context=512)
    (folder / "other.yaml").write_text((folder / "model.yaml").read_text().replace("0.85", "0.7"))
    people = [{"prompt": f"Human {i}", "chosen": f"sorry no {i}", "rejected": f"yes {i}"} for i in range(12)]
    people += [{"prompt": "Prompt red 2", "chosen": "sorry", "rejected": "yes"}]  # a held-out prompt of the run
    # longer than a preference model reads by default: no arm is to count on them
    people += [{"prompt": f"Long {i}", "chosen": "sorry " * 520, "rejected": "yes"} for i in range(6)]
    (folder / "people.jsonl").write_text("".join(json.dumps(row) + "\n" for row in people))
    others = [{"prompt": f"Other {i}", "chosen": f"sorry no {i}", "rejected": f"yes {i}"} for i in range(6)]
    (folder / "others.jsonl").write_text("".join(json.dumps(row) + "\n" for row in others))
    return path


def arms(
    recipe: Path, out: Path, *sets: str, judge: str = JUDGE, names: str = "rlhf rlaif hybrid", **named: int
) -> Arms:
    loaded = load_recipe(recipe, [*SETS, *sets])
    return run_arms(loaded, recipe, out, arms=names.split(), judge=judge, **named)


@pytest.fixture(scope="module")
def finished(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Arms]:
    out = tmp_path_factory.mktemp("out") / "run"
    return out, arms(recipe, out)


def rows_of(out: Path, arm: str) -> list[PreferenceRow]:
    place = out / "arms" / arm
    result = load_result(place / json.loads((place / "current.json").read_text())["pm"])
    assert result is not None
    return result.read("rows.jsonl", PreferenceRow)


def test_every_arm_learns_from_as_much_over_the_same_prompts(finished: tuple[Path, Arms]) -> None:
    out, found = finished
    assert found.equal and [b.arm for b in found.budgets] == ["rlhf", "rlaif", "hybrid"]
    (rlhf, rlaif, hybrid), n = found.budgets, found.budgets[0].human_rows
    assert n >= 4 and n % 2 == 0
    told = [(b.ai_rows, b.human_rows, b.rows) for b in (rlhf, rlaif, hybrid)]
    assert told == [(0, n, n), (n, 0, n), (n // 2, n // 2, n)]
    assert len({(b.pm_steps, b.rl_steps, b.rollouts, b.rl_prompts) for b in found.budgets}) == 1 and rlhf.rl_prompts
    assert {row.source for row in rows_of(out, "rlhf")} == {"human"}
    assert {row.source for row in rows_of(out, "rlaif")} == {"ai"}
    mixed = rows_of(out, "hybrid")
    assert {row.weight for row in mixed if row.source == "human"} == {2.0}
    # a hybrid's rows are among those of the other two
    assert {r.comparison_id for r in mixed} <= {r.comparison_id for a in ("rlhf", "rlaif") for r in rows_of(out, a)}


def test_arms_go_on_under_another_constitution_where_it_is_accepted(recipe: Path, tmp_path: Path) -> None:
    shutil.copytree(recipe.parent, tmp_path / "in")
    own, out = tmp_path / "in" / recipe.name, tmp_path / "run"
    command = ["compare-arms", str(own), "--judge", JUDGE, "--out", str(out), "--arms", "rlhf,rlaif"]
    command += [part for one in SETS for part in ("--set", one)]
    assert CliRunner().invoke(app, command).exit_code == 0
    constitution = own.with_name("constitution.yaml")
    constitution.write_text(constitution.read_text().replace("more kind?", "kinder?"))
    refused = CliRunner().invoke(app, command)
    assert isinstance(refused.exception, RunError)
    (name,) = re.findall(r"--accept-constitution (\S+)", str(refused.exception))
    assert CliRunner().invoke(app, [*command, "--accept-constitution", name]).exit_code == 0
    assert CliRunner().invoke(app, command).exit_code == 0  # it is theirs now


def test_what_arms_share_is_done_once_and_all_is_reused(finished: tuple[Path, Arms], recipe: Path) -> None:
    out, found = finished
    stages = {path.name.split("-", 1)[1]: len(list(path.iterdir())) for path in (out / "stages").iterdir()}
    once = dict.fromkeys(("revise", "helpful", "sft", "sample", "judge", "label"), 1)
    assert stages.items() >= (once | {"pm": 3, "rl": 3, "gate": 2, "arm-answers": 1}).items()
    before = {path: path.stat().st_mtime_ns for path in out.glob("stages/*/*/manifest.json")}
    sets = [part for one in SETS for part in ("--set", one)]
    command = ["compare-arms", str(recipe), "--judge", JUDGE, "--out", str(out), "--display", "plain"]
    said = CliRunner().invoke(app, [*command, *sets])
    assert said.exit_code == 0, said.output
    assert "\n  answers " in said.output and "\n  evaluate " in said.output  # not shown under the last arm's step
    assert render_arms(found) in said.output and "arms.json" in said.output
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_arms_are_judged_again_where_the_judge_is_asked_otherwise(
    finished: tuple[Path, Arms], recipe: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished[0], out, symlinks=True)
    assert arms(recipe, out, "templates=chat-question-last").budgets


def test_the_table_says_how_the_arms_compare_and_the_file_holds_the_same(finished: tuple[Path, Arms]) -> None:
    out, found = finished
    assert Arms.model_validate_json((out / "arms.json").read_bytes()) == found
    text = render_arms(found)
    assert (out / "arms.md").read_text() == text + "\n"
    systems = {row.system for row in found.evaluation.rows}
    assert systems == {"base", "sl-cai", "rlhf", "rlaif", "hybrid"}
    matches = {(w.system, w.against, w.kind) for w in found.evaluation.wins}
    kinds = ("red_team", "helpful")
    assert matches == {
        (one, other, kind)
        for one, other in (
            *((arm, "sl-cai") for arm in ("rlhf", "rlaif", "hybrid")),
            *(("rlaif", "rlhf"), ("hybrid", "rlhf"), ("hybrid", "rlaif")),
        )
        for kind in kinds
    }
    assert {row.system for row in found.evaluation.perplexity} == systems
    assert found.left_out == 1 and found.prompts == {"red_team": 3, "helpful": 4}
    assert found.gate is not None and found.gate.judge != found.judge == found.judge_gate.judge
    for part in ("| rlhf | 0 + ", "budgets: equal", "gate passed", "weights in hybrid: AI rows 1; people.jsonl 2"):
        assert part in text, part
    assert text.count("|\n") == 7 and "1 left out, as they are trained on" in text


def test_each_arm_is_a_run_that_can_be_traced(finished: tuple[Path, Arms]) -> None:
    out, _ = finished
    for arm in ("rlhf", "rlaif"):
        row = rows_of(out, arm)[0]
        node = trace(out / "arms" / arm, record_id(row))
        assert node.kind == "preference row" and problems(node) == []
        with open_view(out / "arms" / arm) as view:
            assert view.step("rl") is not None and view.metrics("rl")
            assert (view.step("label") is None) == (arm == "rlhf")


def test_dpo_has_arms_and_a_preference_model_judges_if_it_knows_nothing_of_them(recipe: Path, tmp_path: Path) -> None:
    for name, people in (("stranger", "others.jsonl"), ("known", "people.jsonl")):
        sets = [*SETS, "stages=[pm]", f"pm={{human: [{{path: {people}}}], trl: {{max_steps: 1}}}}"]
        run_recipe(load_recipe(recipe, sets), recipe, tmp_path / name)
    found = arms(recipe, tmp_path / "run", DPO, judge=f"model:{tmp_path}/stranger/models/pm", names="rlhf rlaif")
    assert found.judge_is == "preference model" and {w.by for w in found.evaluation.wins} == {"preference model"}
    assert "none of its" in found.judge_note
    with pytest.raises(ConfigError, match=r"was trained on \d+ of the conversations that the arms learn from"):
        arms(recipe, tmp_path / "run", DPO, judge=f"model:{tmp_path}/known/models/pm")


def test_what_arms_lack_is_told_before_anything_is_written(recipe: Path, tmp_path: Path) -> None:
    pm = "pm={human: [{path: people.jsonl}]"
    for sets, judge, names, message in (
        ((), "scripted:model.yaml", "rlhf rlaif", "makes the labels that an arm learns from"),
        ((), "scripted:nobody.yaml", "rlhf rlaif", "nobody.yaml"),
        ((), JUDGE, "rlhf rlhaif", "no arm 'rlhaif'.*did you mean 'rlaif'"),
        ((), JUDGE, "rlhf", "1 arm has nothing to be compared with"),
        (("pm={}",), JUDGE, "rlhf rlaif", "names no preferences of people"),
        ((f"{pm}, rows: {{ai: 1, human: 1}}}}",), JUDGE, "rlhf rlaif", "pm.rows: arms are given as many rows"),
        ((f"{pm}, conditioned: true}}",), JUDGE, "rlhf rlaif", "pm.conditioned: arms are given"),
        (("rl={rewards: [{kind: judge}]}",), JUDGE, "rlhf rlaif", "no principle of|would reward in every arm"),
        (("stages=[revise, helpful, sft, pm]",), JUDGE, "rlhf rlaif", "arms need the step 'rl'"),
    ):
        with pytest.raises((ConfigError, DataError), match=message):
            arms(recipe, tmp_path / "run", *sets, judge=judge, names=names)
    assert not (tmp_path / "run").exists()


def test_more_preferences_than_an_arm_has_are_refused(recipe: Path, finished: tuple[Path, Arms]) -> None:
    with pytest.raises(TrainingError, match=r"100 preferences for each arm; there are: rlhf \d+, rlaif \d+, hybrid"):
        arms(recipe, finished[0], rows=100)


def test_unequal_budgets_are_told(finished: tuple[Path, Arms]) -> None:
    _, found = finished
    short = found.budgets[0].model_copy(update={"rows": found.budgets[0].rows - 1})
    assert short.spent != found.budgets[0].spent
    text = render_arms(found.model_copy(update={"budgets": (short, *found.budgets[1:]), "equal": False}))
    assert "budgets: NOT EQUAL" in text
