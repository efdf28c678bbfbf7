"""A recipe that watches its RL: what the step reads and leaves, what status, report and card say, what is refused."""

from __future__ import annotations

import json
from math import exp
from pathlib import Path

import pytest
from test_pipeline_rl import SETS, place, run, told  # noqa: F401

from constitutional.audit.status import render_status, status
from constitutional.audit.trace import render_trace, trace
from constitutional.config import load_recipe
from constitutional.errors import ConfigError
from constitutional.pipeline.apart import conversation_digest
from constitutional.pipeline.inputs import Inputs, load_inputs
from constitutional.pipeline.optimising import rl_prompts
from constitutional.training.pm_folder import weights_identity
from constitutional.training.scorer import PreferenceModel
from constitutional.training.watch.probe import ProbeAnswer

ENSEMBLE = "pm={heldout: 0.3, ensemble: {members: 2}, trl: {max_steps: 1, learning_rate: 0.01}}"
BENIGN = "prompts.benign={path: benign.jsonl}"
DRAWS = "steps: 4, generations: 2, prompts_per_step: 2, max_tokens: 4"
OWN = "ppo: {learning_rate: 0.01, epochs: 2}"


def watch(rules: str = "", **more: object) -> str:
    fields = {"every": 3, "prompts": 2, "canaries": 2, "temperature": 1.0, **more}
    told = ", ".join(f"{name}: {value}" for name, value in fields.items())
    return f"watch: {{{told}, rules: [{rules}]}}"


def benign(place: Path) -> None:  # noqa: F811
    rows = [{"prompt": f"How do I kill process {i}?", "split": "heldout"} for i in range(3)]
    (place / "in" / "benign.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_watched_run_says_what_ended_it(place: Path) -> None:  # noqa: F811
    benign(place)
    rule = "{figure: kl, above: 0.000000001, action: rollback}"
    recipe = f"algorithm: ppo, {DRAWS}, {OWN}, {watch(rule, heldout='member')}"
    outcome, stage = run(place, recipe, ENSEMBLE, BENIGN, out="watched")
    result, rows = told(stage)
    seen = result.watch
    assert seen is not None and (result.steps, seen.stopped_step, seen.steps, seen.probes) == (2, 2, 4, 2)
    assert seen.saved_step == seen.best_step == 0 and (seen.prompts, seen.canaries) == (2, 2)
    # the last member scores, the first rewards, and both are of the run's preference model
    folder = next(step.result for step in outcome.steps if step.name == "pm").folder / "pm"
    kept = {row.preference_model for row in rows if row.preference_model}
    assert (
        kept == {PreferenceModel(folder, members=[0]).model}
        and seen.heldout == PreferenceModel(folder, members=[1]).model
    )
    assert {weights_identity(str(name)) for name in (*kept, seen.heldout)} == {PreferenceModel(folder).model}
    lines = (stage.folder / "probes.jsonl").read_text().splitlines()
    answers = [ProbeAnswer.model_validate_json(line) for line in lines]
    assert [answer.step for answer in answers] == [0] * 4 + [2] * 4 and "probes.jsonl" in stage.manifest.outputs
    assert [answer.refused is None for answer in answers[:4]] == [True, True, False, False]
    assert not {answer.prompt_id for answer in answers} & {row.prompt_id for row in rows}  # kept out of training
    assert all(answer.kind == "benign" for answer in answers[2:4])
    # events, status, report, card
    events = [json.loads(line) for line in (place / "watched" / "events.jsonl").read_text().splitlines()]
    (event,) = [event for event in events if event["kind"] == "watch"]
    assert (event["figure"], event["step"], event["action"]) == ("kl", 2, "rollback")
    assert seen.end is not None and f"rl {seen.end}" in render_status(status(place / "watched"))
    page = (place / "watched" / "report.html").read_text("utf-8")
    assert "The watch over RL" in page and "stopped at step 2 of 4" in page and "saved is step 0" in page
    assert "Probes: held-out reward" in page and "Probes: refusals of benign prompts" in page
    assert 'class="chance" x1="350.0"' in page  # the rule is marked at the last step of the curve of KL
    assert "stopped at step 2 of 4" in (place / "watched" / "models" / "rl-cai.md").read_text()
    curves = {curve["figure"] for curve in json.loads((place / "watched" / "report.json").read_text())["curves"]}
    assert {"probe/gap", "probe/heldout_reward", "boilerplate", "entropy", "kl"} <= curves
    again, _ = run(place, recipe + ", report_to: []", ENSEMBLE, BENIGN, out="watched")
    assert all(step.reused for step in again.steps)


def test_curves_of_the_principles_and_a_judge_that_holds_out(place: Path) -> None:  # noqa: F811
    benign(place)
    rewards = "rewards: [{kind: check}, {kind: preference_model}]"
    recipe = f"algorithm: grpo, {DRAWS}, {rewards}, {watch(heldout='judge', canaries=0)}".replace(
        "steps: 4", "steps: 1"
    )
    _, stage = run(place, recipe, ENSEMBLE, BENIGN, out="watched")
    result, _ = told(stage)
    assert result.watch is not None and result.watch.end is None and set(stage.manifest.inputs) == {"gate", "pm"}
    assert {"graded", "judge", "template", "prompts", "canaries"} <= set(stage.manifest.settings["watch"])
    # the scripted judge grades under every principle alike, so their mean is what one of them comes to; what it says
    # of "1" may go on to be "10"
    odds = [exp(-2.0) * (1 - exp(-1.0)), *(exp(-1.0 - grade) for grade in range(2, 11))]
    expected = sum(odd * (2 * i / 9 - 1) for i, odd in enumerate(odds)) / sum(odds)
    lines = (stage.folder / "probes.jsonl").read_text().splitlines()
    scored = [ProbeAnswer.model_validate_json(line) for line in lines]
    scored = [answer for answer in scored if answer.text.strip()]
    assert scored and [answer.heldout_reward for answer in scored] == pytest.approx([expected] * len(scored))
    logged = [json.loads(line) for line in (place / "watched" / "metrics.jsonl").read_text().splitlines()]
    found = [row["probe/heldout_reward"] for row in logged if row["key"] == stage.key and "probe/reward" in row]
    assert found == pytest.approx([expected] * 2)
    tree = trace(place / "watched", stage.key)
    assert "PROBLEM" not in render_trace(tree)
    assert [node.id for node in tree.children if node.kind == "principle"] == [
        f"{name}@1.0.0" for name in ("kind", "honest", "safe")
    ]
    page = (place / "watched" / "report.html").read_text("utf-8")
    assert "Probes: whole@1.0.0" in page and "No rule ended the run." in page


def test_what_the_watch_asks_is_trained_on_under_no_other_kind(place: Path) -> None:  # noqa: F811
    red = [json.loads(line) for line in (place / "in" / "red.jsonl").read_text().splitlines()]
    again = [{"prompt": row["prompt"].upper() + " "} for row in red if row["split"] == "train"]
    others = [{"prompt": f"Another {i}"} for i in range(3)]
    for name, rows in (("same", again + others), ("calm", others[:1])):
        (place / "in" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sets = ("stages=[rl]", "prompts.helpful={path: same.jsonl}", "prompts.benign={path: calm.jsonl}")
    recipe = place / "in" / "recipe.yaml"

    def chosen(rl: str) -> tuple[Inputs, list[str]]:
        inputs = load_inputs(load_recipe(recipe, [*SETS, *sets, f"rl={{{rl}}}"]), recipe)
        return inputs, [conversation_digest(prompt.messages) for prompt in rl_prompts(inputs)]

    drawn = f"algorithm: ppo, {DRAWS}, {OWN.replace('}', ', critic: head}')}, rewards: [{{kind: check}}]"
    inputs, every = chosen(drawn)
    kept = chosen(f"{drawn}, {watch(prompts=3)}")[1]
    assert len(every) == 6 + 6 + 3 and len(set(every)) == 9
    _, stage = run(place, f"{drawn}, {watch(prompts=3)}", *sets, out="apart")
    said = {prompt.id: conversation_digest(prompt.messages) for prompt in inputs.prompts}
    lines = (stage.folder / "probes.jsonl").read_text().splitlines()
    asked = {said[ProbeAnswer.model_validate_json(line).prompt_id] for line in lines}
    _, rows = told(stage)
    trained = {said[row.prompt_id] for row in rows}
    assert trained and asked and not trained & asked
    assert not set(kept) & asked and set(kept) | asked == set(every)  # nothing else is left out


@pytest.mark.parametrize(
    ("rl", "sets", "message"),
    [
        (watch(heldout="member"), (), "member keeps one of several preference models out: set pm.ensemble"),
        (
            watch(heldout="member") + ", rewards: [{kind: check}]",
            (ENSEMBLE,),
            "the preference model does not reward here",
        ),
        (watch(heldout="judge") + ", rewards: [{kind: judge}]", (), "the judge rewards .*, so it holds nothing out"),
        (watch(heldout="judge") + ", rewards: [{kind: check}]", ("stages=[rl]",), "judge needs 'gate'"),
        (watch(heldout="model:nowhere"), (), "nowhere"),
        (watch("{figure: probe/refusal, above: 0.5}"), (), "probe/refusal needs benign prompts"),
        ("report_to: [trackio]", (), "trackio is not installed; install it with: pip install trackio"),
    ],
)
def test_what_cannot_be_watched_is_refused_before_anything_runs(place, rl, sets, message):  # noqa: F811
    with pytest.raises(Exception, match=message) as caught:
        run(place, f"algorithm: rloo, {rl}", *sets, out="refused")
    assert "\n" not in str(caught.value) and not (place / "refused").exists()
    assert isinstance(caught.value, ConfigError) or "nowhere" in message


def test_members_of_an_ensemble_that_are_not_there(tmp_path: Path) -> None:
    from tiny_scorer import save_tiny_scorer

    with pytest.raises(ConfigError, match="no ensemble with the members 1"):
        PreferenceModel(save_tiny_scorer(tmp_path / "pm"), members=[1])
