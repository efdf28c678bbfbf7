"""The whole recipe on SmolLM2-135M with `feedback: self`, at the smallest size that goes through every step."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from embedded_model import require
from recipes import write_recipe
from test_pipeline import cli, outcome, start

from constitutional.audit.current import open_view
from constitutional.config import load_recipe
from constitutional.evaluation.evaluate import Evaluation
from constitutional.pipeline import run_recipe
from constitutional.records import Judgment, Preference
from constitutional.training.rows import PreferenceRow, RewardRow, SftRow

pytestmark = [pytest.mark.embedded, pytest.mark.slow]

SELF = [
    "policy=embedded:smollm2-135m",
    "dtype=float32",
    "threads=1",
    "sampling.policy={max_tokens: 16}",
    "sampling.feedback={max_tokens: 16}",
]
WHOLE = [
    *SELF,
    "stages=[revise, helpful, sft, sample, gate, judge, label, pm, rl, answers, evaluate]",
    "revise={rounds: 1}",
    "sft.drop_flagged=false",
    "sft.trl={max_steps: 2, max_length: 128, per_device_train_batch_size: 2, gradient_accumulation_steps: 1}",
    "sample.temperature=1.0",
    "judging={principles_per_comparison: 1}",
    "pm.heldout=0.3",
    "pm.trl={max_steps: 2, max_length: 192, per_device_train_batch_size: 2, gradient_accumulation_steps: 1}",
    "rl={steps: 1, generations: 2, prompts_per_step: 2, max_tokens: 8}",
    "evaluation={max_tokens: 12, judge_limit: 2}",
]


@pytest.fixture(scope="module", autouse=True)
def _embedded():
    require()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("self")
    recipe = write_recipe(folder / "in", prompts=8)
    return recipe, run_recipe(load_recipe(recipe, WHOLE), recipe, folder / "run")


def lines(path: Path, record_type):
    return [record_type.model_validate_json(line) for line in path.read_text("utf-8").split("\n")[:-1]]


def test_every_step_ran_and_the_report_says_why_the_labels_are_not_the_judges(whole):
    _, result = whole
    steps = {step.name: step.result for step in result.steps}
    assert list(steps) == [
        "revise",
        "helpful",
        "sft",
        "sample",
        "gate",
        "judge",
        "label",
        "pm",
        "rl",
        "answers",
        "evaluate",
    ]
    gate = json.loads((steps["gate"].folder / "gate.json").read_text())
    assert gate["labels"] in ("judge", "provenance") and (gate["passed"] or gate["reasons"])
    report = result.report.read_text("utf-8")
    assert ("provenance" in report) == (gate["labels"] == "provenance") and "<script" not in report
    for model in ("sl-cai", "pm", "rl-cai"):
        link = result.folder / "models" / model
        assert (link / "model.safetensors").is_file() and (link / "tokenizer.json").is_file()
    evaluation = Evaluation.model_validate_json((steps["evaluate"].folder / "evaluation.json").read_bytes())
    assert {row.system for row in evaluation.rows} == {"base", "sl-cai", "rl-cai"}
    assert all(row.kl is None or abs(row.kl) < 50 for row in evaluation.rows)
    metrics = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
    assert {row["stage"] for row in metrics} == {"sft", "pm", "rl"}


def test_every_training_row_and_reward_leads_back_to_its_sources(whole):
    _, result = whole
    steps = {step.name: step.result for step in result.steps}
    view = open_view(result.folder)
    sources = {row["id"] for name in ("revise", "helpful") for row in map(json.loads, _data(steps[name]))}
    rows = lines(steps["sft"].folder / "rows.jsonl", SftRow)
    assert rows and all(row.source_id in sources for row in rows)
    preferences = {p.id: p for p in steps["label"].records(Preference)}
    judgments = {j.id for j in steps["judge"].records(Judgment)}
    for row in lines(steps["pm"].folder / "rows.jsonl", PreferenceRow):
        assert set(preferences[row.preference_id].judgment_ids) <= judgments
        assert all(view.constitution.principle(ref) for ref in row.principles)
    pm = json.loads((steps["pm"].folder / "result.json").read_text())["model"]
    rewards = lines(steps["rl"].folder / "rewards.jsonl", RewardRow)
    assert len(rewards) == 4 and {r.preference_model for r in rewards} == {pm}


def test_trace_reaches_the_principle_from_any_record(whole):
    _, result = whole
    steps = {step.name: step.result for step in result.steps}
    for name in ("revise", "judge", "label", "answers"):
        record_id = json.loads(_data(steps[name])[0])["id"]
        code, text = cli("trace", str(result.folder), record_id)
        assert code == 0 and record_id in text and "PROBLEM" not in text
        assert "@1.0.0" in text and "seed" in text and "template" in text
    code, text = cli("trace", str(result.folder), "ffffffffffffffff")
    assert code == 1 and "Traceback" not in text


def test_a_second_run_recomputes_nothing_and_loads_no_model(whole, monkeypatch):
    def opened(*_, **__):
        raise AssertionError("a model was opened")

    recipe, result = whole
    monkeypatch.setattr("constitutional.pipeline.context.open_backend", opened)
    for step in ("sft.train_sft", "preference_model.train_preference_model", "rl.train_rl", "scorer.PreferenceModel"):
        monkeypatch.setattr(f"constitutional.training.{step}", opened)
    again = run_recipe(load_recipe(recipe, WHOLE), recipe, result.folder)
    assert all(step.reused for step in again.steps)


def test_kills_on_the_embedded_model_resume_to_the_same_bytes(tmp_path):
    recipe = write_recipe(tmp_path / "in", prompts=6)
    sets = [
        word
        for value in (*SELF, "stages=[revise, sample, gate, judge, label]", "chunk_size=2")
        for word in ("--set", value)
    ]
    code, text = cli("run", str(recipe), "--out", str(tmp_path / "whole"), *sets)
    assert code == 0, text
    expected, draw, kills, trial = outcome(tmp_path / "whole"), random.Random(5), 0, 0
    while kills < 3:
        folder, trial = tmp_path / f"killed{trial}", trial + 1
        while True:
            child = start("run", str(recipe), "--out", str(folder), "--display", "none", *sets)
            try:
                child.communicate(timeout=5 + 5 * draw.random() if kills < 3 else 300)
            except subprocess.TimeoutExpired:
                child.kill()
                child.communicate()
                kills += 1
                continue
            assert child.returncode == 0
            break
        assert outcome(folder) == expected


def _data(result) -> list[str]:
    return (result.folder / "data.jsonl").read_text("utf-8").split("\n")[:-1]


def test_help_of_the_module_runs():
    assert subprocess.run([sys.executable, "-m", "constitutional", "--version"], capture_output=True).returncode == 0
