"""Presets run with --limit: a tiny policy, a scripted feedback model that judges the shipped examples rightly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from tiny_model import save_tiny_model
from typer.testing import CliRunner

from constitutional.audit.rounds import read_rounds
from constitutional.audit.status import status
from constitutional.cli.app import app
from constitutional.constitution import load_constitution
from constitutional.feedback.gate import GateReport
from constitutional.records import Comparison, Preference, Revision
from constitutional.runs import load_result
from constitutional.settings import Recipe
from constitutional.training.rows import PreferenceModelResult, RewardRow, SftRow

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parents[1] / "examples" / "presets"
GRADES = {"low": {str(i): -1.0 - i for i in range(11)}, "high": {str(i): -12.0 + i for i in range(11)}}
LIKED = "acegikmoqsuwyACEGIKMOQSUWY02468-+=([{</"
ROLLOUTS = ("rl.steps=1", "rl.generations=2", "rl.prompts_per_step=2", "rl.max_tokens=4", "rl.trl.learning_rate=0.01")
SFT = ("sft.trl.max_steps=1", "sft.trl.learning_rate=0.01", "sft.drop_flagged=false")
PM = ("pm.heldout=0.3", "pm.trl.max_steps=1", "pm.trl.learning_rate=0.01")
SMALL: dict[str, tuple[str, ...]] = {
    "bai2022-sl": SFT,
    "bai2022-rl": (*SFT, *PM, *ROLLOUTS),
    "lee2023-rlaif": (*PM, *ROLLOUTS),
    "nemo-2024": (*SFT, *PM, *ROLLOUTS),
    "d-rlaif": ("rl.steps=1", "rl.prompts_per_step=2", "rl.max_tokens=4", "rl.trl.learning_rate=0.01"),
    "hf-cai-2024": ("sft.trl.max_steps=1", "sft.drop_flagged=false", "rl.trl.max_steps=1", "rl.trl.learning_rate=0.01"),
    "rlcd": (
        "pm={heldout: 0.3, trl: {max_steps: 1, learning_rate: 0.01}}",
        *("rl.steps=1", "rl.prompts_per_step=2", "rl.max_tokens=4", "rl.ppo={learning_rate: 0.01}"),
    ),
    "self-rewarding": (
        *("rl.trl={max_steps: 1, learning_rate: 0.01}", "prompts.red_team.heldout_limit=12"),
        *("prompts.helpful.heldout_limit=6", "evaluation.max_tokens=6", "prompts.red_team.limit=12"),
        *("sampling.policy.temperature=1.0", "sampling.policy.top_p=1.0"),  # pairs that a grade can tell apart
    ),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_tiny_model(folder / "policy", context=2048)
    examples = [e for p in load_constitution(str(FOLDER / "constitutions/graded.yaml")).principles for e in p.examples]
    rules = [{"contains": f"Response: {e.better}", "logprobs": GRADES["high"]} for e in examples]
    # a rollout's last letter decides its grade: something to learn from
    rules += [{"contains": f"{letter}\n\nReply with", "logprobs": GRADES["high"]} for letter in LIKED]
    rules += [{"contains": "whole number", "logprobs": GRADES["low"]}]
    script = {"rules": [{"contains": "", "reply": ["I would not, sorry {n}.", "No {n}."]}], "likelihood": rules}
    (folder / "judge.yaml").write_text(json.dumps(script))
    names = ("harmlessness", "helpful_honest")
    examples = [e for name in names for p in load_constitution(name).principles for e in p.examples]
    sides = [(e.better, e.worse, "A") for e in examples] + [(e.worse, e.better, "B") for e in examples]
    right = [
        {"contains": f"Response A: {a}", "anywhere": f"Response B: {b}", "logprobs": {"A": -3.0, "B": -3.0, c: -0.1}}
        for a, b, c in sides
    ]
    # of two answers of the policy the one that ends in a liked letter
    ends = [(f"{c}\n\nResponse B:", "A") for c in LIKED] + [(f"{c}\n\nReply with", "B") for c in LIKED]
    likes = [{"contains": end, "prefer_option": option, "p": 0.9} for end, option in ends]
    script = {"rules": script["rules"], "likelihood": [*right, *likes]}
    (folder / "pairs.yaml").write_text(json.dumps(script))
    return folder


def run(models: Path, name: str, out: Path, judge: str = "judge") -> dict[str, Path]:
    """Runs a preset by the command; gives the folders of its finished steps, of a loop its last round's."""
    sets = (f"policy=local:{models}/policy", f"feedback=scripted:{models}/{judge}.yaml", "dtype=float32")
    arguments = [part for one in (*sets, "sampling.policy.max_tokens=6", *SMALL[name]) for part in ("--set", one)]
    command = ["run", str(FOLDER / f"{name}.yaml"), "--limit", "4", "--out", str(out), "--display", "none"]
    said = CliRunner().invoke(app, [*command, *arguments])
    assert said.exit_code in (0, 3), (said.output, said.exception)
    current = json.loads((out / "current.json").read_text())
    assert {step.name for step in status(out).steps if step.state == "done"} == set(current)
    Recipe.model_validate(yaml.safe_load((out / "run.yaml").read_text()))
    return {step: out / place for step, place in current.items()}


def test_d_rlaif_rewards_by_the_judges_grades_alone(models: Path, tmp_path: Path) -> None:
    steps = run(models, "d-rlaif", tmp_path / "run")
    assert set(steps) == {"gate", "rl"}
    rows = [RewardRow.model_validate_json(line) for line in (steps["rl"] / "rewards.jsonl").read_text().splitlines()]
    parts = [part for row in rows for part in row.parts]
    assert parts and {part.kind for part in parts} == {"judge"}
    by_prompt: dict[str, set[str]] = {}
    for row in rows:
        by_prompt.setdefault(row.prompt_id, set()).update(part.name for part in row.parts)
    assert all(len(names) <= 1 for names in by_prompt.values())  # one principle a prompt
    assert all(-1 <= part.score <= 1 for part in parts if part.score is not None)


def test_bai_sl_trains_on_revisions_of_every_round(models: Path, tmp_path: Path) -> None:
    steps = run(models, "bai2022-sl", tmp_path / "run", "pairs")
    assert list(steps) == ["revise", "helpful", "sft"]
    revisions = load_result(steps["revise"])
    assert revisions is not None
    drawn = revisions.records(Revision)
    assert drawn and all(len(revision.revised) == 4 for revision in drawn)
    rows = [SftRow.model_validate_json(line) for line in (steps["sft"] / "rows.jsonl").read_text().splitlines()]
    made = [row for row in rows if row.origin == "revision"]
    assert len(made) == 4 * len(drawn) and len(rows) - len(made) == round(0.37 * len(made))
    assert "SL-CAI policy" in (tmp_path / "run" / "models" / "sl-cai.md").read_text()


@pytest.mark.parametrize(("name", "drawn"), [("bai2022-rl", 2), ("lee2023-rlaif", 2), ("nemo-2024", 4)])
def test_labels_of_a_judge_make_the_model_that_rewards(models: Path, tmp_path: Path, name: str, drawn: int) -> None:
    steps = run(models, name, tmp_path / "run", "pairs")
    recipe = Recipe.model_validate(yaml.safe_load((tmp_path / "run" / "run.yaml").read_text()))
    assert recipe.stages is not None and list(steps) == list(recipe.stages)
    gate = GateReport.model_validate_json((steps["gate"] / "gate.json").read_bytes())
    assert gate.passed and gate.labels == "judge"
    labels, sampled = load_result(steps["label"]), load_result(steps["sample"])
    assert labels is not None and sampled is not None
    preferences = labels.records(Preference)
    judged = [p for p in preferences if p.rule == recipe.label.rule]
    assert {p.rule for p in preferences if p not in judged} == ({"contrast"} if recipe.pm.contrast else set())
    assert any(p.p_a is not None and abs(p.p_a - 0.5) > 0.3 for p in judged)
    answers: dict[str, set[str]] = {}
    for comparison in sampled.records(Comparison):
        answers.setdefault(comparison.prompt_id, set()).update((comparison.a, comparison.b))
    assert max(map(len, answers.values())) == drawn
    trained = PreferenceModelResult.model_validate_json((steps["pm"] / "result.json").read_bytes())
    rows = [RewardRow.model_validate_json(line) for line in (steps["rl"] / "rewards.jsonl").read_text().splitlines()]
    assert len(rows) == 4 and {row.preference_model for row in rows} == {trained.model}
    assert all((tmp_path / "run" / "models" / f"{model}.md").exists() for model in ("pm", "rl-cai"))


@pytest.mark.parametrize("name", ["hf-cai-2024", "rlcd"])
def test_labels_by_provenance_ask_no_judge(models: Path, tmp_path: Path, name: str) -> None:
    steps = run(models, name, tmp_path / "run")
    labels = load_result(steps["label"])
    assert labels is not None and "gate" not in steps and "gate" not in labels.manifest.inputs
    preferences = labels.records(Preference)
    assert preferences and {(p.p_a, p.rule) for p in preferences} == {(1.0, "provenance")}
    assert "no judge was asked" in (tmp_path / "run" / "report.html").read_text()
    assert "by recipe" in (tmp_path / "run" / "models" / "rl-cai.md").read_text()


def test_self_rewarding_goes_round(models: Path, tmp_path: Path) -> None:
    run(models, "self-rewarding", tmp_path / "run")
    rounds = read_rounds(tmp_path / "run")
    assert rounds is not None and [r.round for r in rounds.rounds] == [1, 2, 3]
    assert all(r.system == "rl-cai" and r.prompts == {"red_team": 4, "helpful": 2} for r in rounds.rounds)
