"""Bad input through the command line: one clear line, a non-zero exit code, nothing already done is lost."""

import json
import re
import shutil

import pytest
from recipes import write_recipe
from test_pipeline import cli, outcome, run
from tiny_model import save_tiny_model

from constitutional.runs import load_result

pytestmark = pytest.mark.slow


def run_cli(recipe, out, *sets):
    words = [word for value in sets for word in ("--set", value)]
    return cli("run", str(recipe), "--out", str(out), "--display", "none", *words)


def error_line(text: str) -> str:
    assert "Traceback" not in text
    (line,) = [line for line in text.splitlines() if line.startswith("error: ")]
    return line


@pytest.fixture
def recipe(tmp_path):
    return write_recipe(tmp_path / "in")


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["stages=[revise, sft]"], "stages: 'sft' needs 'helpful', which is left out"),
        (["stages=[judge]"], "stages: 'judge' needs 'sample', which is left out"),
        (["stages=[evaluate]"], "stages: 'evaluate' needs 'answers', which is left out"),
        (["stages=[revise, helpful, sft]"], "cannot be trained (sft): use local: or embedded:"),
        (["revise={rounds: 4, replacement: false}"], "revise.rounds: 4 rounds without replacement need as many"),
        (["sample.n=3"], "sample.n"),
        (["judge=local:nowhere"], "nowhere"),
        (["sample.revisions=true", "stages=[sample]"], "sample.revisions needs 'revise'"),
        (["pm.contrast=1", "stages=[revise, sample, gate, judge, label]"], "pm.contrast needs 'helpful'"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_written(recipe, tmp_path, sets, message):
    code, text = run_cli(recipe, tmp_path / "run", *sets)
    assert code == 1 and message in error_line(text)
    assert not (tmp_path / "run").exists()


def test_no_heldout_prompts_for_an_evaluation(recipe, tmp_path):
    rows = [json.dumps({"prompt": f"Prompt {i}"}) for i in range(6)]
    (tmp_path / "in" / "red.jsonl").write_text("\n".join(rows) + "\n")
    code, text = run_cli(recipe, tmp_path / "run")
    assert code == 1 and "no held-out red-team prompts" in error_line(text)
    code, text = run_cli(recipe, tmp_path / "run", "prompts.red_team={path: red.jsonl, limit: 3, heldout_limit: 2}")
    assert code == 0
    prompts = [json.loads(line) for line in (tmp_path / "run" / "prompts.jsonl").read_text().splitlines()]
    red = [(p["split"], p["messages"][0]["content"]) for p in prompts if p["kind"] == "red_team"]
    assert red == [("train", f"Prompt {i}") for i in range(3)] + [("heldout", f"Prompt {i}") for i in (3, 4)]


def test_an_empty_prompt_file(recipe, tmp_path):
    (tmp_path / "in" / "red.jsonl").write_text("")
    code, text = run_cli(recipe, tmp_path / "run")
    assert code == 1 and "red.jsonl" in error_line(text) and not (tmp_path / "run").exists()


def test_long_prompts_and_empty_answers_are_counted_and_the_run_goes_on(recipe, tmp_path):
    model = tmp_path / "in" / "model.yaml"
    model.write_text(
        "context: 400\n" + model.read_text().replace("rules:", 'rules:\n  - {contains: "red 1", reply: " "}', 1)
    )
    with (tmp_path / "in" / "red.jsonl").open("a") as file:
        file.write(json.dumps({"prompt": "Prompt " * 500, "split": "train"}) + "\n")
    code, text = run_cli(recipe, tmp_path / "run")
    assert code == 3 and "Traceback" not in text and "items failed and are listed in the report" in text
    places = json.loads((tmp_path / "run" / "current.json").read_text())
    revise = load_result(tmp_path / "run" / places["revise"])
    assert revise.manifest.failures["too_long"] == 1 and revise.manifest.failures["empty_generation"] >= 1
    kinds = {failure.kind for failure in revise.failures()}
    assert kinds == {"too_long", "empty_generation"}
    assert revise.manifest.counts["records"] + revise.manifest.counts["failures"] == 11
    report = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert re.search("too.long", report) and re.search("empty.generation", report)


def test_a_damaged_ledger_stops_the_run_and_is_left_alone(recipe, tmp_path):
    run(recipe, tmp_path / "run")
    ledger = tmp_path / "run" / "ledger.sqlite"
    whole = ledger.read_bytes()
    ledger.write_bytes(b"not a database" * 400)
    code, text = run_cli(recipe, tmp_path / "run")
    assert code == 1 and "ledger.sqlite" in error_line(text)
    ledger.write_bytes(whole)
    assert run_cli(recipe, tmp_path / "run")[0] == 0


def test_an_emptied_ledger_is_not_taken_for_the_one_the_stages_wrote_to(recipe, tmp_path):
    run(recipe, tmp_path / "run")
    before = outcome(tmp_path / "run")
    shutil.move(tmp_path / "run" / "ledger.sqlite", tmp_path / "kept.sqlite")
    code, text = run_cli(recipe, tmp_path / "run")
    assert code == 1 and "rows were cut off" in error_line(text)
    for left in (tmp_path / "run").glob("ledger.sqlite*"):
        left.unlink()
    shutil.move(tmp_path / "kept.sqlite", tmp_path / "run" / "ledger.sqlite")
    run(recipe, tmp_path / "run")
    assert outcome(tmp_path / "run") == before


@pytest.mark.parametrize(
    ("missing", "message"), [("tokenizer.json", "no tokenizer"), ("config.json", "not a model folder")]
)
def test_a_model_folder_that_lacks_something(recipe, tmp_path, missing, message):
    folder = tmp_path / "model"
    save_tiny_model(folder)
    (folder / missing).unlink()
    code, text = run_cli(recipe, tmp_path / "run", f"policy=local:{folder}")
    assert code == 1 and message in error_line(text) and not (tmp_path / "run").exists()


TRAIN = "stages=[revise, helpful, sft, sample, gate, judge, label, pm, rl]"


def trained(tmp_path, folder, *sets):
    """Runs the training steps on a tiny policy with scripted feedback."""
    feedback = tmp_path / "in" / "model.yaml"
    return run_cli(
        tmp_path / "in" / "recipe.yaml",
        folder,
        f"policy=local:{tmp_path / 'tiny'}",
        f"feedback=scripted:{feedback}",
        TRAIN,
        "dtype=float32",
        "sft.drop_flagged=false",
        "sample.revisions=true",
        "sft.trl={max_steps: 2}",
        "pm.trl={max_steps: 2}",
        "rl={steps: 1, generations: 2, prompts_per_step: 2, max_tokens: 6}",
        *sets,
    )


def test_too_few_prompts_for_a_batch_and_nan_losses_keep_what_is_done(recipe, tmp_path):
    save_tiny_model(tmp_path / "tiny")
    folder = tmp_path / "run"
    code, text = trained(tmp_path, folder, "sft.trl={max_steps: 2, learning_rate: 1e+38}")
    assert code == 1 and "step" in error_line(text)
    assert list(folder.glob("stages/01-revise/*/manifest.json")) and not list(
        folder.glob("stages/03-sft/*/manifest.json")
    )
    code, text = trained(tmp_path, folder, "rl={steps: 1, generations: 2, prompts_per_step: 500, max_tokens: 6}")
    assert code == 1 and "prompts" in error_line(text)
    assert list(folder.glob("stages/08-pm/*/manifest.json")) and not list(folder.glob("stages/09-rl/*/manifest.json"))
    code, text = trained(tmp_path, folder)
    assert code in (0, 3), text
    assert list(folder.glob("stages/09-rl/*/manifest.json"))
