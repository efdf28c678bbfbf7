"""The pm step: human preferences beside the run's labels, rows per principle, what stays apart, what can be traced."""

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from recipes import run_again, write_recipe
from test_modes_run import DRAW, REPLIES
from test_pipeline import run
from tiny_model import save_tiny_model

from constitutional.audit.trace import problems, trace
from constitutional.config import load_recipe
from constitutional.errors import ConfigError, DataError, TrainingError
from constitutional.feedback.label import opinions
from constitutional.pipeline import RunOutcome
from constitutional.records import Comparison, Dialogue, Judgment, Preference, digest
from constitutional.runs import StageResult
from constitutional.settings import PmSettings
from constitutional.training.pm_folder import OVERALL, read_conditions, read_ensemble
from constitutional.training.rows import PreferenceModelResult, PreferenceRow
from constitutional.training.scorer import PreferenceModel

pytestmark = pytest.mark.slow

SETS = (
    "policy=local:policy",
    "feedback=scripted:model.yaml",
    "dtype=float32",
    "sampling.policy={temperature: 1.0, max_tokens: 6}",
    "revise={rounds: 1}",
    "sample={revisions: true}",
    "sft={drop_flagged: false}",
)
TRL = "trl: {max_steps: 1, learning_rate: 0.01}"
# of rank 2, in each of two layers: q, o (32, 32), k, v (32, 16), gate, up, down (32, 64); and the head
ADAPTERS = 2 * 2 * (2 * (32 + 32) + 2 * (32 + 16) + 3 * (32 + 64)) + 32


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pm")
    path = write_recipe(folder / "in")
    save_tiny_model(folder / "in" / "policy", context=512)
    human = [{"prompt": f"Human {i}", "chosen": f"yes {i}", "rejected": f"no {i}"} for i in range(10)]
    human += [{"prompt": "Human 0", "chosen": "another yes", "rejected": "another no"}]
    human += [{"prompt": "Prompt red 0", "chosen": "fine", "rejected": "bad"}]  # a conversation of the run
    human += [{"prompt": "Human same", "chosen": "same", "rejected": "same"}]
    (folder / "in" / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in human))
    (folder / "in" / "broken.jsonl").write_text('{"prompt": "Human", "chosen": "yes"}\n')
    measured = [{"prompt": f"Human {i}", "chosen": f"yes {i}!", "rejected": f"no {i}!"} for i in range(4)]
    (folder / "in" / "measured.jsonl").write_text("".join(json.dumps(row) + "\n" for row in measured))
    return path


def pm(outcome: RunOutcome) -> StageResult:
    return next(step.result for step in outcome.steps if step.name == "pm")


def test_preferences_of_people_alone(recipe: Path, tmp_path: Path) -> None:
    sources = "[{path: pairs.jsonl, weight: 2}, {path: measured.jsonl, weight: 0}]"
    out = run(recipe, tmp_path / "run", *SETS, "stages=[pm]", f"pm={{human: {sources}, head: probe, {TRL}}}")
    stage = pm(out)
    train, held = stage.read("rows.jsonl", PreferenceRow), stage.read("heldout.jsonl", PreferenceRow)
    assert {row.origin for row in train} == {"human:pairs.jsonl"} and {row.weight for row in train} == {2.0}
    by_origin = {origin: [r for r in held if r.origin == origin] for origin in {r.origin for r in held}}
    assert len(by_origin["human:measured.jsonl"]) == 4  # all of them: a weight of 0 only measures
    told = {row.messages for row in held}
    assert not told & {row.messages for row in train}
    assert stage.manifest.failures == {"human_same_answers": 1}
    assert len(train) + len(by_origin["human:pairs.jsonl"]) == 12
    result = PreferenceModelResult.model_validate_json((stage.folder / "result.json").read_text())
    assert {s.name: s.agreement.n for s in result.by_source} == {name: len(rows) for name, rows in by_origin.items()}
    assert result.probe is not None and result.probe.n == result.heldout.n == len(held)
    row = train[0]
    assert row.preference_id in {p.id for p in stage.read("preferences.jsonl", Preference)}
    assert row.comparison_id in {c.id for c in stage.read("comparisons.jsonl", Comparison)}
    shown = trace(tmp_path / "run", digest(row.model_dump(mode="json"))[:16])
    assert shown.kind == "preference row" and problems(shown) == []


def test_rows_of_each_principle_for_a_conditioned_ensemble(recipe: Path, tmp_path: Path) -> None:
    stages = "stages=[revise, helpful, sample, gate, judge, label, pm]"
    committee = "ensemble: {members: 2, rule: lower, spread: 2}, ai_weight: 0.5, margin: 1, lora: {r: 2}"
    settings = f"pm={{conditioned: true, {committee}, human: [{{path: pairs.jsonl}}], {TRL}}}"
    out = run(recipe, tmp_path / "run", *SETS, stages, settings)
    stage, by_name = pm(out), {step.name: step.result for step in out.steps}
    rows = [*stage.read("rows.jsonl", PreferenceRow), *stage.read("heldout.jsonl", PreferenceRow)]
    judgments = by_name["judge"].records(Judgment)
    asked = {(j.comparison_id, j.principle) for j in judgments}
    assert {(r.comparison_id, r.principles[0]) for r in rows if r.source == "ai"} == asked
    cited = {p.id: p for p in stage.read("preferences.jsonl", Preference)}
    for row in rows:
        own = [
            j.p_a or 0.0 for j in judgments if (j.comparison_id, j.principle) == (row.comparison_id, *row.principles)
        ]
        if row.source == "ai":
            p_a = sum(own) / 2
            assert len(own) == 2 and row.probability == max(p_a, 1 - p_a)
            assert cited[row.preference_id].p_a == p_a and row.principle_text is not None
        else:
            assert row.principle_text == OVERALL and row.source == "human"
    assert {c.principle for c in read_conditions(stage.folder / "pm")} == {r for _, r in asked} | {"overall"}
    ensemble = read_ensemble(stage.folder / "pm")
    assert ensemble is not None and (ensemble.rule, len(ensemble.members), ensemble.spread) == ("lower", 2, 2)
    assert {row.source: row.weight for row in rows} == {"ai": 0.5, "human": 1.0}
    result = PreferenceModelResult.model_validate_json((stage.folder / "result.json").read_text())
    assert {p.name for p in result.by_principle} <= {r for _, r in asked} and result.by_principle
    assert result.trainable_parameters == ADAPTERS
    first = next(json.loads(line)["loss"] for line in (tmp_path / "run" / "metrics.jsonl").open() if '"pm"' in line)
    assert first > math.log(2) + 0.05  # scores are equal at first: the loss is more than ln 2 by the margin alone
    assert {s.name for s in result.by_source} == {"ai", "human:pairs.jsonl"} and len(result.members) == 2
    same = [r for r in rows if r.messages[0].content == "Prompt red 0"]
    held = {r.preference_id for r in stage.read("heldout.jsonl", PreferenceRow)}
    assert {r.source for r in same} == {"ai", "human"} and len({r.preference_id in held for r in same}) == 1


@pytest.mark.parametrize("read", ["clamped", "calibrated"])
def test_a_conditioned_model_learns_opinions_as_the_labels_read_them(recipe: Path, tmp_path: Path, read: str) -> None:
    text = recipe.with_name("model.yaml").read_text().replace("rules:\n", "rules:" + REPLIES, 1)
    recipe.with_name("reasons.yaml").write_text(text)
    reasons = ["feedback=scripted:reasons.yaml", "judging.mode=cot", DRAW]
    how = reasons if read == "clamped" else ["label.calibration=temperature"]
    stages = "stages=[revise, helpful, sample, gate, judge, label, pm]"
    out = run(recipe, tmp_path / "run", *SETS, stages, f"pm={{conditioned: true, {TRL}}}", *how)
    stage, by_name = pm(out), {step.name: step.result for step in out.steps}
    raw = {o.judgment_ids: o.p_a for os in opinions(by_name["judge"].records(Judgment)).values() for o in os}
    cited = [p for p in stage.read("preferences.jsonl", Preference) if p.rule == "principle"]
    rows = [*stage.read("rows.jsonl", PreferenceRow), *stage.read("heldout.jsonl", PreferenceRow)]
    assert cited and {r.probability for r in rows if r.source == "ai"} == {
        max(p.p_a, 1 - p.p_a) for p in cited if p.p_a is not None
    }
    assert any(p.p_a != raw[p.judgment_ids] for p in cited)  # type: ignore[index]
    if read == "clamped":
        assert all(p.p_a is not None and 0.4 <= p.p_a <= 0.6 for p in cited)
        assert any(abs(p - 0.5) > 0.1 for p in raw.values())
    for preference in cited[:4]:
        assert problems(trace(tmp_path / "run", preference.id)) == []


def test_evaluation_asks_a_conditioned_model_as_principles_weigh_now(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the reward does: RL and its evaluation would go by different weights else."""
    folder = tmp_path / "in"
    shutil.copytree(recipe.parent, folder)
    stages = "stages=[revise, helpful, sample, gate, judge, label, pm, answers, evaluate]"
    sets = (*SETS, stages, "evaluation.max_tokens=6", f"pm={{conditioned: true, {TRL}}}")
    run_again(folder / recipe.name, tmp_path / "run", *sets)
    constitution = folder / "constitution.yaml"
    constitution.write_text(constitution.read_text().replace("    title: ", "    weight: 50\n    title: ", 1))
    asked: list[tuple[float, ...]] = []
    score = PreferenceModel.score

    def seen(self: PreferenceModel, dialogues: Sequence[Dialogue]) -> list[float]:
        asked.append(tuple(condition.weight for condition in self.conditions))
        return score(self, dialogues)

    monkeypatch.setattr(PreferenceModel, "score", seen)
    again = {step.name: step.reused for step in run_again(folder / recipe.name, tmp_path / "run", *sets).steps}
    assert again["pm"] and again["answers"] and not again["evaluate"]
    assert asked == [(50, 1, 1)]


def test_what_the_settings_need_is_told_before_anything_is_written(recipe: Path, tmp_path: Path) -> None:
    for sets, message in (
        (("stages=[pm]",), "'pm' needs 'label'"),
        (("stages=[pm]", "pm={conditioned: true, human: [{path: pairs.jsonl}]}"), "pm.conditioned needs 'judge'"),
        (("stages=[pm]", "pm={human: [{path: pairs.jsonl}, {path: pairs.jsonl}]}"), "two data sets are called"),
        (("stages=[pm]", "pm={human: [{path: pears.jsonl}]}"), "pears.jsonl: no such file"),
        (("stages=[pm]", "pm={human: [{path: pairs.jsonl}, {path: broken.jsonl}]}"), "broken.jsonl:1: 'rejected' must"),
        (("stages=[pm]", "pm={ensemble: {members: 1}}"), "should be greater than or equal to 2"),
    ):
        with pytest.raises((ConfigError, DataError), match=message):
            run(recipe, tmp_path / "run", *SETS, *sets)
    assert not (tmp_path / "run" / "stages").exists()


def test_settings_that_are_not_used_leave_no_mark(recipe: Path) -> None:
    before = {"contrast": 0.0, "heldout": 0.2, "trl": {}}
    assert PmSettings().model_dump(mode="json") == before == load_recipe(recipe).pm.model_dump(mode="json")
    assert digest(PmSettings(margin=0.0, head="zero").model_dump(mode="json")) == digest(before)
    assert PmSettings(margin=1.0).model_dump(mode="json") == {**before, "margin": 1.0}


DPO = "rl={algorithm: dpo, trl: {max_steps: 1, learning_rate: 0.01}}"


def rl(outcome: RunOutcome) -> StageResult:
    return next(step.result for step in outcome.steps if step.name == "rl")


def test_dpo_learns_from_peoples_preferences_as_the_preference_model_does(recipe: Path, tmp_path: Path) -> None:
    people = f"pm={{human: [{{path: pairs.jsonl, weight: 3}}, {{path: measured.jsonl, weight: 0}}], {TRL}}}"
    alone = rl(run(recipe, tmp_path / "alone", *SETS, "stages=[rl]", people, DPO))
    rows = alone.read("rows.jsonl", PreferenceRow)
    assert rows and {row.origin for row in rows} == {"human:pairs.jsonl"} and not alone.manifest.inputs
    assert alone.manifest.failures == {"human_same_answers": 1} and alone.manifest.counts["rows"] == len(rows)
    shown = trace(tmp_path / "alone", digest(rows[0].model_dump(mode="json"))[:16])
    assert shown.kind == "preference row" and problems(shown) == []
    stages = "stages=[revise, helpful, sample, gate, judge, label, pm, rl]"
    both = run(recipe, tmp_path / "both", *SETS, stages, people, DPO)
    mixed = rl(both).read("rows.jsonl", PreferenceRow)
    assert mixed == pm(both).read("rows.jsonl", PreferenceRow)  # one place that preferences come from
    assert {row.source: row.weight for row in mixed} == {"ai": 1.0, "human": 3.0}
    again = run(recipe, tmp_path / "both", *SETS, stages, people.replace("weight: 3", "weight: 2"), DPO)
    assert not next(step.reused for step in again.steps if step.name == "rl")


def test_dpo_without_peoples_preferences_keeps_its_key_and_its_files(recipe: Path, tmp_path: Path) -> None:
    stages = "stages=[revise, sample, gate, judge, label, rl]"
    stage = rl(run(recipe, tmp_path / "run", *SETS, stages, DPO))
    assert set(stage.manifest.settings) == {"settings", "seed", "heldout", "policy"}
    assert set(stage.manifest.inputs) == {"label"}
    assert not {"rows.jsonl", "comparisons.jsonl"} & set(stage.manifest.outputs)


def test_a_training_that_starts_from_the_policy_is_another_one_of_another_policy(recipe: Path, tmp_path: Path) -> None:
    save_tiny_model(recipe.parent / "another", context=512, seed=9)
    settings = f"pm={{human: [{{path: pairs.jsonl}}], {TRL}}}"
    both = ["stages=[pm, rl]", settings, DPO]
    first = run(recipe, tmp_path / "run", *SETS, *both)
    other = run(recipe, tmp_path / "run", *SETS, *both, "policy=local:another")
    again = run(recipe, tmp_path / "run", *SETS, *both)
    assert [step.reused for out in (first, other, again) for step in out.steps] == [False] * 4 + [True] * 2
    assert {step.result.key for step in first.steps}.isdisjoint(step.result.key for step in other.steps)


@pytest.mark.parametrize("algorithm", ["pm", "dpo"])
def test_rows_that_are_counted_are_read_whole(recipe: Path, tmp_path: Path, algorithm: str) -> None:
    pairs = [{"prompt": f"Q {i}", "chosen": "yes " * (1 + 200 * (i % 2)), "rejected": "no"} for i in range(16)]
    path = tmp_path / "mixed.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in pairs))
    people = f"heldout: 0.1, human: [{{path: {path}}}]"
    trl = "trl: {max_steps: 1, learning_rate: 0.01, max_length: 100}"
    if algorithm == "dpo":
        stages = "stages=[revise, sample, gate, judge, label, rl]"
        sets = [stages, f"rl={{algorithm: dpo, {trl}}}"]
    else:
        sets, people = ["stages=[pm]"], f"{people}, {trl}"
    out = run(recipe, tmp_path / "run", *SETS, *sets, f"pm={{rows: {{ai: 0, human: 6}}, {people}}}")
    stage = pm(out) if algorithm == "pm" else rl(out)
    rows = stage.read("rows.jsonl", PreferenceRow)
    assert len(rows) == json.loads((stage.folder / "result.json").read_text())["rows"] == 6
    assert {len(row.chosen) for row in rows} == {4}
    assert stage.manifest.failures["too_long"] >= 1  # those that were passed over
    with pytest.raises(
        TrainingError, match=r"rows of human preferences wanted, 1[0-6] there are.*, \d of them not read"
    ):
        run(recipe, tmp_path / "run", *SETS, *sets, f"pm={{rows: {{ai: 0, human: 10}}, {people}}}")
    if algorithm == "pm":  # its own length counts, whatever a direct method would read
        both = [*SETS, "stages=[pm]", "rl={algorithm: dpo, trl: {max_length: 4}}"]
        again = pm(run(recipe, tmp_path / "run", *both, f"pm={{rows: {{ai: 0, human: 6}}, {people}}}"))
        assert again.folder == stage.folder
        with pytest.raises(ConfigError, match=r"^pm\.trl\.max_length: expected int"):
            run(recipe, tmp_path / "run", *both, f"pm={{rows: {{ai: 0, human: 6}}, {people.replace('100', 'true')}}}")


def test_as_many_rows_as_are_asked_for_or_none(recipe: Path, tmp_path: Path) -> None:
    stages = "stages=[revise, helpful, sample, gate, judge, label, pm]"
    base = f"human: [{{path: pairs.jsonl}}], {TRL}"
    whole = pm(run(recipe, tmp_path / "run", *SETS, stages, f"pm={{{base}}}")).read("rows.jsonl", PreferenceRow)
    stage = pm(run(recipe, tmp_path / "run", *SETS, stages, f"pm={{rows: {{ai: 3, human: 4}}, {base}}}"))
    rows = stage.read("rows.jsonl", PreferenceRow)
    assert [row.source for row in rows].count("ai") == 3 and len(rows) == 7
    assert [row for row in whole if row in rows] == rows  # the same rows in the same order
    with pytest.raises(TrainingError, match=r"pm\.rows: 99 rows of human preferences wanted"):
        run(recipe, tmp_path / "run", *SETS, stages, f"pm={{rows: {{ai: 3, human: 99}}, {base}}}")
    with pytest.raises(ConfigError, match="a conditioned model is trained on every principle's opinions"):
        load_recipe(recipe, ["pm={rows: {ai: 1, human: 1}, conditioned: true}"])
