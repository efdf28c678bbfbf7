"""Every algorithm of the step `rl` in a recipe, on a tiny random policy: what it reads, writes and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from recipes import CHECK
from test_modes_run import write
from tiny_model import save_tiny_model

from constitutional.audit.index import record_id
from constitutional.audit.principle_trace import trace_principle
from constitutional.audit.trace import render_trace, trace
from constitutional.config import load_recipe
from constitutional.errors import ConfigError, GateError
from constitutional.pipeline import RunOutcome, run_recipe
from constitutional.runs import StageResult
from constitutional.settings import RlSettings
from constitutional.training.pm_folder import member_folders, read_conditions
from constitutional.training.rows import RewardRow, RlResult

pytestmark = pytest.mark.slow

SETS = (
    "stages=[revise, sample, gate, judge, label, pm, rl]",
    "policy=local:policy",
    "feedback=scripted:model.yaml",
    "dtype=float32",
    "sampling.policy={temperature: 1.0, max_tokens: 6}",
    "revise={rounds: 1}",
    "sample={revisions: true}",
    "pm={heldout: 0.3, trl: {max_steps: 1, learning_rate: 0.01}}",
)
SMALL = "steps: 1, generations: 2, prompts_per_step: 2, max_tokens: 4"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rl")
    recipe = write(folder / "in")
    constitution = recipe.with_name("constitution.yaml")
    constitution.write_text(constitution.read_text() + CHECK)
    save_tiny_model(folder / "in" / "policy", context=512)
    return folder


def run(place: Path, rl: str, *sets: str, out: str = "run") -> tuple[RunOutcome, StageResult]:
    recipe = place / "in" / "recipe.yaml"
    outcome = run_recipe(load_recipe(recipe, [*SETS, f"rl={{{rl}}}", *sets]), recipe, place / out)
    return outcome, next(step.result for step in outcome.steps if step.name == "rl")


def told(stage: StageResult) -> tuple[RlResult, list[RewardRow]]:
    lines = (stage.folder / "rewards.jsonl").read_text().splitlines()
    result = RlResult.model_validate_json((stage.folder / "result.json").read_bytes())
    assert (stage.folder / "rl-cai" / "model.safetensors").exists()
    return result, [RewardRow.model_validate_json(line) for line in lines]


def test_ppo_against_the_preference_model(place: Path) -> None:
    _, stage = run(place, f"algorithm: ppo, {SMALL}, ppo: {{learning_rate: 0.001, epochs: 2}}")
    result, rows = told(stage)
    assert result.steps == 1 and len(rows) == result.completions == 4 and result.last_kl == 0.0
    assert set(stage.manifest.settings) == {"prompts", "settings", "temperature", "seed", "policy"}
    assert set(stage.manifest.inputs) == {"pm"} and {row.preference_model for row in rows} == {result.preference_model}
    metrics = [json.loads(line) for line in (place / "run" / "metrics.jsonl").read_text().splitlines()]
    assert any(row["stage"] == "rl" and "explained_variance" in row for row in metrics)
    again, _ = run(place, f"algorithm: ppo, {SMALL}, ppo: {{learning_rate: 0.001, epochs: 2}}")
    assert all(step.reused for step in again.steps)
    changed, _ = run(place, f"algorithm: ppo, {SMALL}, ppo: {{learning_rate: 0.001, epochs: 1}}")
    assert [step.name for step in changed.steps if not step.reused] == ["rl"]


@pytest.mark.parametrize("draw", ["all", "one"])
def test_judge_checks_and_preference_model_reward_together(place: Path, draw: str) -> None:
    rewards = (
        f"[{{kind: judge, weight: 2, draw: {draw}, principles: [kind, safe]}}, {{kind: check}}, "
        "{kind: preference_model, weight: 0.5}]"
    )
    own = "ppo: {critic: head, learning_rate: 0.001, epochs: 1}"
    _, stage = run(place, f"algorithm: ppo, {SMALL}, rewards: {rewards}, {own}")
    result, rows = told(stage)
    assert set(stage.manifest.inputs) == {"pm", "gate"}
    whole = [row for row in rows if row.completion.strip()]
    assert whole and result.unrewarded == 0
    for row in whole:
        names = [(part.kind, part.name, part.weight) for part in row.parts]
        judged = [name for kind, name, _ in names if kind == "judge"]
        assert judged == ["kind@1.0.0", "safe@1.0.0"] if draw == "all" else len(judged) == 1
        assert ("check", "whole@1.0.0", 1.0) in names and names[-1] == ("preference_model", "preference_model", 0.5)
        assert row.score == pytest.approx(sum(p.weight * p.score for p in row.parts if p.score is not None))
        assert all(-1 <= p.score <= 1 for p in row.parts if p.kind == "judge" and p.score is not None)
    by_prompt = {row.prompt_id: {p.name for p in row.parts if p.kind == "judge"} for row in whole}
    for row in whole:  # answers to one prompt are graded under the same principle
        assert by_prompt[row.prompt_id] == {p.name for p in row.parts if p.kind == "judge"}
    text = render_trace(trace(place / "run", record_id(whole[0])))
    assert "PROBLEM" not in text and ("judge kind@1.0.0" in text or "judge safe@1.0.0" in text)


def test_a_conditioned_ensemble_rewards_as_a_part_and_starts_the_critic(place: Path) -> None:
    pm = "pm={heldout: 0.3, conditioned: true, ensemble: {members: 2}, trl: {max_steps: 1, learning_rate: 0.01}}"
    rewards = "[{kind: preference_model, weight: 0.5}, {kind: check}]"
    one = f"algorithm: ppo, {SMALL}, rewards: {rewards}, ppo: {{learning_rate: 0.001, epochs: 1}}"
    outcome, stage = run(place, one, pm, out="conditioned")
    scored = next(step.result for step in outcome.steps if step.name == "pm").folder / "pm"
    assert len(member_folders(scored)) == 2  # the folder itself holds no weights a critic could start from
    asked = [condition.model_dump(mode="json") for condition in read_conditions(scored)]
    assert asked and stage.manifest.settings["conditions"] == asked
    result, rows = told(stage)
    parts = [part for row in rows for part in row.parts if part.kind == "preference_model"]
    assert parts and {part.by for part in parts} == {result.preference_model}
    _, checked = run(place, one.replace("{kind: preference_model, weight: 0.5}, ", ""), pm, out="conditioned")
    assert "conditions" not in checked.manifest.settings  # the critic reads no principle


def test_dpo_trains_on_the_labels(place: Path) -> None:
    _, stage = run(place, "algorithm: dpo, dpo: {beta: 0.2}, trl: {max_steps: 1, learning_rate: 0.01}")
    result, rows = told(stage)
    assert set(stage.manifest.inputs) == {"label"} and not rows
    assert result.rows > 0 and stage.manifest.counts["rows"] == result.rows


def test_best_of_n_needs_no_steps(place: Path) -> None:
    one = "algorithm: best_of_n, generations: 2, max_tokens: 4, rewards: [{kind: check}], lora: {r: 2}"
    _, stage = run(place, f"{one}, trl: {{max_steps: 1, learning_rate: 0.01}}")
    result, rows = told(stage)
    assert not stage.manifest.inputs and len(rows) == result.completions == 2 * result.prompts
    under = [record_id(row) for row in rows if row.parts]
    found = trace_principle(place / "run", "whole@1.0.0")
    assert under and found.rewards is not None and list(found.rewards.ids) == under


def test_a_judge_that_failed_its_gate_rewards_nothing(place: Path) -> None:
    sets = (
        "judging.mode=logprob",
        "gate={min_order_consistency: 1.0, fallback: provenance}",
        "feedback=scripted:b.yaml",
    )
    (place / "in" / "b.yaml").write_text(
        (place / "in" / "model.yaml").read_text().replace("keyword: sorry", "keyword: yes")
    )
    rl = f"algorithm: ppo, {SMALL}, ppo: {{critic: policy}}, rewards: [{{kind: judge}}]"
    with pytest.raises(GateError, match="did not pass its gate, so its grades reward nothing"):
        run(place, rl, *sets, "stages=[gate, rl]", out="failed")


@pytest.mark.parametrize(
    ("rl", "sets", "message"),
    [
        ("algorithm: ppo, trl: {beta: 1}", (), "trl is not used by algorithm ppo"),
        ("algorithm: grpo, ppo: {clip: 0.1}", (), "ppo is not used by algorithm grpo"),
        ("algorithm: dpo, kl: 0.1", (), "kl is not used by algorithm dpo"),
        ("algorithm: best_of_n, prompts_per_step: 2", (), "prompts_per_step is not used by algorithm best_of_n"),
        ("algorithm: grpo, generations: 1", (), "needs at least 2"),
        ("algorithm: ppo, lora: {dropout: 0.1}", (), "lora.dropout is not used"),
        ("algorithm: ppo, kl: 0, ppo: {kl_target: 1}", (), "starts from kl, which is 0"),
        ("algorithm: ppo", ("rl.ppo.epoch=1",), r"unknown key 'epoch' \(did you mean 'epochs'"),
        ("rewards: [{kind: judge, principles: [kindly]}]", (), r"no principle 'kindly' with a score_request"),
        ("rewards: [{kind: check, principles: [kind]}]", (), r"no principle 'kind' with a check"),
        ("rewards: [{kind: judge}, {kind: judge, principles: [safe]}]", (), "safe@1.0.0 is named twice"),
        ("rewards: [{kind: preference_model, draw: one}]", (), "asks no principles"),
        ("algorithm: ppo", ("stages=[gate, rl]",), "'rl' needs 'pm'"),
        ("algorithm: dpo", ("stages=[gate, rl]",), "'rl' needs 'label'"),
        ("rewards: [{kind: judge}]", ("stages=[rl]",), "'rl' needs 'gate'"),
    ],
)
def test_what_an_algorithm_would_ignore_is_refused(place: Path, rl: str, sets: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        run(place, rl, *sets, out="refused")
    assert "\n" not in str(caught.value) and not (place / "refused").exists()


def test_settings_are_written_as_they_were_and_read_back() -> None:
    plain = RlSettings()
    assert list(plain.model_dump()) == [
        "algorithm", "steps", "kl", "generations", "prompts_per_step", "max_tokens", "trl",
    ]  # fmt: skip
    for algorithm in ("ppo", "grpo", "rloo", "dpo", "best_of_n"):
        resolved = RlSettings.model_validate({"algorithm": algorithm}).model_dump(mode="json")
        assert RlSettings.model_validate_json(json.dumps(resolved)).model_dump(mode="json") == resolved
