"""Rounds of a recipe: a tiny policy that learns to say sorry, a judge that likes it, and what then is promoted."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from recipes import write_recipe
from test_pipeline import cli, start
from tiny_model import save_tiny_model
from typer.testing import CliRunner

from constitutional.audit.rounds import Rounds, read_rounds, trace_rounds
from constitutional.audit.trace import problems, render_trace
from constitutional.cli.app import app
from constitutional.config import load_recipe
from constitutional.errors import ConfigError, DataError, RunError
from constitutional.evaluation.evaluate import Evaluation
from constitutional.ledger import open_ledger_read_only
from constitutional.pipeline import RunOutcome, run_recipe
from constitutional.pipeline.apart import conversation_digest
from constitutional.pipeline.shared import link
from constitutional.records import Prompt, Revision
from constitutional.runs import load_result, read_log
from constitutional.runs.logs import read_rows
from constitutional.training.rows import SftRow

pytestmark = pytest.mark.slow
KILLS = int(os.environ.get("KILLS", "20")) // 4

SETS = (
    "stages=[revise, helpful, gate, sft, answers, evaluate]",
    "policy=local:policy",
    "feedback=scripted:model.yaml",
    "dtype=float32",
    "sampling.policy={temperature: 1.0, max_tokens: 6}",
    "revise={rounds: 1}",
    "prompts.red_team.limit=8",
    "prompts.helpful.limit=2",
    "sft={drop_flagged: false, helpful_ratio: 0, trl: {max_steps: 40, learning_rate: 0.02}}",
    "evaluation={temperature: 0, max_tokens: 12}",
    "rounds=3",
    "promotion={max_perplexity: null}",
)
STEPS = ("revise", "helpful", "sft", "gate", "answers", "evaluate")


def write(folder: Path) -> Path:
    """The small recipe with revisions that say sorry and nothing else; 13 held-out prompts of a kind."""
    recipe = write_recipe(folder, prompts=40)
    model = folder / "model.yaml"
    lines = model.read_text().splitlines()
    at = next(i for i, line in enumerate(lines) if "two short sentences" in line)
    lines[at] = '  - {contains: "two short sentences", reply: "sorry"}'
    model.write_text("\n".join(lines) + "\n")
    save_tiny_model(folder / "policy", context=512)
    return recipe


def run(recipe: Path, out: Path, *sets: str, **named: Any) -> RunOutcome:
    return run_recipe(load_recipe(recipe, [*SETS, *sets]), recipe, out, **named)


def rounds_of(folder: Path) -> Rounds:
    found = read_rounds(folder)
    assert found is not None
    return found


def heldout(folder: Path) -> list[Prompt]:
    rows = (folder / "prompts.jsonl").read_text().splitlines()
    return [p for p in map(Prompt.model_validate_json, rows) if p.split == "heldout"]


def outcome(folder: Path) -> dict[str, str]:
    """What the rounds left, without times: every file of every current stage, and the decisions."""
    found = {"rounds.json": (folder / "rounds.json").read_text()}
    for place in sorted((folder / "rounds").iterdir()):
        for name, stage in json.loads((place / "current.json").read_text()).items():
            result = load_result(place / stage)
            assert result is not None
            found |= {f"{place.name}/{name}/{file}": sha for file, sha in result.manifest.outputs.items()}
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("rounds")
    recipe = write(folder / "in")
    run(recipe, folder / "run")
    return recipe, folder / "run"


def test_only_a_model_that_is_surely_better_replaces_the_policy(finished: tuple[Path, Path]) -> None:
    _, folder = finished
    rounds = rounds_of(folder)
    first, second, third = rounds.rounds
    assert first.promotion.promoted and first.promotion.interval is not None and first.promotion.interval.low > 0.5
    # the judge has no opinion between two models that say sorry: the last one stays
    assert not second.promotion.promoted and "not surely above one half" in second.promotion.why
    assert first.policy == rounds.start and second.policy == first.model == third.policy
    assert rounds.promoted == (third.model if third.promotion.promoted else first.model)
    assert len({r.seed for r in rounds.rounds}) == 3 and len({r.model for r in rounds.rounds}) == 3
    assert (folder / "models" / "policy" / "model.safetensors").exists()
    told = [row for row in read_log(folder / "events.jsonl") if row["kind"] == "promotion"]
    assert [(row["round"], row["promoted"]) for row in told] == [(1, True), (2, False), (3, third.promotion.promoted)]
    assert "not surely" in str(told[1]["why"])


def test_each_round_has_heldout_prompts_of_its_own_that_nothing_is_trained_on(finished: tuple[Path, Path]) -> None:
    _, folder = finished
    parts = [heldout(folder / "rounds" / str(n)) for n in (1, 2, 3)]
    told = [{conversation_digest(p.messages) for p in part} for part in parts]
    assert len(set.union(*told)) == sum(map(len, parts)) == 26 and not set.intersection(*told)
    assert all(4 <= sum(p.kind == "red_team" for p in part) <= 5 for part in parts)
    for n in (1, 2, 3):
        place = folder / "rounds" / str(n)
        current = json.loads((place / "current.json").read_text())
        rows = load_result(place / current["sft"]).read("rows.jsonl", SftRow)  # type: ignore[union-attr]
        assert rows and not {conversation_digest(row.prompt) for row in rows} & set.union(*told)
        assert rounds_of(folder).rounds[n - 1].prompts == {"red_team": len(parts[n - 1]) // 2, "helpful": 4 + (n == 1)}


def test_the_promoted_model_is_the_policy_of_the_next_round_and_trace_leads_through(
    finished: tuple[Path, Path],
) -> None:
    _, folder = finished
    rounds = rounds_of(folder)
    place = folder / "rounds" / "3"
    current = json.loads((place / "current.json").read_text())
    revise = load_result(place / current["revise"])
    assert revise is not None
    revision = revise.records(Revision)[0]
    assert revision.policy == rounds.rounds[0].model and "sor" in revision.initial  # what round 1 taught it
    node = trace_rounds(folder, rounds, revision.id)
    assert problems(node) == [] and ("round", "3 of 3") in node.facts
    text = render_trace(node)
    assert "the sl-cai of round 1 is the policy of round 3" in text
    assert "the start model is the policy of round 1" in text and "kind@1.0.0" in text
    assert "rounds since that promoted nothing: 2" in text
    first = rounds.rounds[0].step
    (before,) = [child for child in node.children if child.kind == "policy"]
    assert before.id == rounds.rounds[0].model and before.children[0].id == first


def test_what_was_forgotten_stands_in_the_evaluation_of_every_round(finished: tuple[Path, Path]) -> None:
    _, folder = finished
    for n in (1, 2, 3):
        place = folder / "rounds" / str(n)
        current = json.loads((place / "current.json").read_text())
        rows = Evaluation.model_validate_json((place / current["evaluate"] / "evaluation.json").read_bytes()).perplexity
        by_system = {row.system: row for row in rows}
        assert set(by_system) == {"base", "sl-cai"} and by_system["sl-cai"].n >= 4
        assert by_system["sl-cai"].ratio > 1.05  # it says sorry to everything
        assert (by_system["base"].ratio == 1) == (n == 1)  # later the policy itself is a trained model
        assert rounds_of(folder).rounds[n - 1].promotion.perplexity_ratio == by_system["sl-cai"].ratio
        assert "Forgetting" in (place / "report.html").read_text()


def test_the_judge_is_asked_once_what_all_rounds_ask(finished: tuple[Path, Path]) -> None:
    _, folder = finished
    places = [folder / "rounds" / str(n) for n in (1, 2, 3)]
    gates = [load_result(p / json.loads((p / "current.json").read_text())["gate"]) for p in places]
    assert len({gate.manifest.outputs["data.jsonl"] for gate in gates if gate}) == 1
    with open_ledger_read_only(folder / "ledger.sqlite") as ledger:
        assert ledger.verify() == []
        keys = [judgment.key for judgment in ledger.judgments()]
    assert len(keys) == len(set(keys))


def test_status_trace_and_report_read_the_rounds(finished: tuple[Path, Path]) -> None:
    _, folder = finished
    said = CliRunner().invoke(app, ["status", str(folder)])
    assert said.exit_code == 0, said.output
    assert [f"run run round {n}" in said.output for n in (1, 2, 3)] == [True] * 3
    assert "round 1 (5 red_team" in said.output and "not promoted" in said.output
    revisions = [r for _, r in read_rows(folder / "rounds" / "2" / "prompts.jsonl")]
    said = CliRunner().invoke(app, ["trace", str(folder), str(revisions[0]["id"])])
    assert said.exit_code == 0 and "round: 1 of 3" in said.output  # the earliest that has it
    for command in (["report", str(folder)], ["trace", str(folder), "--principle", "kind@1.0.0"]):
        assert CliRunner().invoke(app, command).exit_code == 0
    said = CliRunner().invoke(app, ["trace", str(folder), "0123456789abcdef"])
    assert said.exit_code != 0 and "no record" in str(said.exception)


def test_a_loop_killed_again_and_again_leaves_the_same_bytes(finished: tuple[Path, Path], tmp_path: Path) -> None:
    recipe, whole = finished
    sets = [word for value in SETS for word in ("--set", value)]
    command = ("run", str(recipe), "--display", "none", *sets, "--out")
    begun = time.monotonic()
    assert cli(*command, str(tmp_path / "unkilled"))[0] == 0
    longest = time.monotonic() - begun  # kills fall anywhere in it, however slow the machine is
    draw, kills, trial, code = random.Random(7), 0, 0, -9
    while kills < KILLS:
        folder, code, trial = tmp_path / f"killed{trial}", -9, trial + 1
        while code != 0:
            child = start(*command, str(folder))
            try:
                child.communicate(timeout=longest * (0.2 + 0.5 * draw.random()) if kills < KILLS else None)
            except subprocess.TimeoutExpired:
                child.kill()
                child.communicate()
                kills += 1
            code = child.returncode
            assert code in (0, -9)
        assert outcome(folder) == outcome(whole)
        again = run(recipe, folder)
        assert all(step.reused for step in again.steps) and len(again.steps) == 3 * len(STEPS)
        told = [row for row in read_log(folder / "events.jsonl") if row["kind"] == "promotion"]
        assert [row["round"] for row in told] == [1, 2, 3]  # each decision once


def test_until_ends_the_loop_in_the_round_that_is_not_finished(finished: tuple[Path, Path], tmp_path: Path) -> None:
    recipe, whole = finished
    shutil.copytree(whole, tmp_path / "run", symlinks=True)
    rounds = json.loads((tmp_path / "run" / "rounds.json").read_text())
    (tmp_path / "run" / "rounds.json").write_text(json.dumps({**rounds, "rounds": rounds["rounds"][:1]}))
    stopped = run(recipe, tmp_path / "run", until="revise")
    assert [step.name for step in stopped.steps] == [*STEPS, "revise"]
    assert len(stopped.steps) == len(STEPS) + 1 and all(step.reused for step in stopped.steps)


def test_what_a_loop_lacks_is_told_before_anything_is_written(finished: tuple[Path, Path], tmp_path: Path) -> None:
    recipe, whole = finished
    for sets, message in (
        (("rounds=4",), "13 held-out red_team prompts .*too few for 4 rounds, which need 4 each"),
        (("stages=[revise, helpful, gate, sft]",), "needs the step 'answers'"),
        (("stages=[revise, helpful, sft, answers, evaluate]",), "promotion by 'judge' needs the step 'gate'"),
        (("stages=[revise, helpful, gate, answers, evaluate]",), "no step makes a new policy"),
        (("promotion={figure: preference_model}",), "needs the step 'pm'"),
        (("evaluation.judge_limit=3",), "3 pairs can promote no model: at least 4"),
        (("rounds=null",), "promotion: there are no rounds"),
        (("promotion={figure: judges}",), "Input should be 'judge'"),
        (("evaluation.perplexity={answers: none.jsonl}",), "none.jsonl: no such file"),
    ):
        with pytest.raises((ConfigError, DataError), match=message):
            run(recipe, tmp_path / "run", *sets)
    assert not (tmp_path / "run").exists()
    with pytest.raises(RunError, match="holds a run with rounds"):
        run(recipe, whole, "rounds=null", "promotion=null")


def test_a_heldout_prompt_that_is_trained_on_is_no_heldout_prompt(finished: tuple[Path, Path], tmp_path: Path) -> None:
    recipe = shutil.copytree(finished[0].parent, tmp_path / "in") / "recipe.yaml"
    rows = [json.loads(line) for line in (tmp_path / "in" / "red.jsonl").read_text().splitlines()]
    trained = [row["prompt"] for row in rows if row["split"] == "train"]
    held = [row for row in rows if row["split"] == "heldout"]
    for row, prompt in zip(held[:2], trained, strict=False):
        row["prompt"] = f" {prompt.upper()} "
    (tmp_path / "in" / "red.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=r"11 held-out red_team prompts \(2 more are trained on or stand there twice\)"):
        run(recipe, tmp_path / "run")
    people = "".join(json.dumps({"prompt": row["prompt"], "chosen": "a", "rejected": "b"}) + "\n" for row in held[2:5])
    (tmp_path / "in" / "people.jsonl").write_text(people)
    with pytest.raises(DataError, match=r"8 held-out red_team prompts \(5 more"):
        human = "pm={human: [{path: people.jsonl}]}"
        stages = "stages=[revise, helpful, gate, sft, pm, answers, evaluate]"
        run(recipe, tmp_path / "run", human, stages)


def test_a_recipe_without_rounds_is_written_as_before(finished: tuple[Path, Path]) -> None:
    plain = load_recipe(finished[0])
    assert not {"rounds", "promotion"} & plain.model_dump(mode="json").keys()
    assert "perplexity" not in plain.evaluation.model_dump(mode="json")
    assert load_recipe(finished[0], ["rounds=2"]).model_dump(mode="json")["rounds"] == 2


def test_a_link_in_a_folder_reached_through_a_link_leads_there(tmp_path: Path) -> None:
    (tmp_path / "data" / "deep" / "run" / "models").mkdir(parents=True)
    (tmp_path / "data" / "deep" / "run" / "stages" / "sft").mkdir(parents=True)
    (tmp_path / "runs").symlink_to(tmp_path / "data" / "deep")
    seen = tmp_path / "runs" / "run"
    link(seen / "models" / "policy", (seen / "stages" / "sft").resolve())
    assert (seen / "models" / "policy").is_dir()
    link(seen / "models" / "other", seen / "stages" / "sft")
    assert (seen / "models" / "other").readlink() == Path("../stages/sft")  # the run may be moved
