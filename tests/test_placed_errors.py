"""What is wrong with a recipe as a whole is told with the place of the setting, before anything is made."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator
from recipes import write_recipe
from tiny_model import save_tiny_model
from typer.testing import CliRunner

from constitutional.cli.app import app
from constitutional.cli.running import placing
from constitutional.config import load_recipe, placed, recipe_marks, recipe_schema
from constitutional.errors import BackendError, ConstitutionalError, naming_key
from constitutional.pipeline.preflight import check_trainings

ROOT = Path(__file__).parents[1]
TRAINED = "stages: [revise, helpful, sft, sample, gate, judge, label, pm, rl]\n"
SHIPPED = [
    *ROOT.glob("examples/*/recipe.yaml"),
    *ROOT.glob("examples/presets/*.yaml"),
    ROOT / "examples/03_arms/judge.yaml",
]


def refused(*words: str | Path) -> str:
    found = CliRunner().invoke(app, [str(word) for word in words])
    assert isinstance(found.exception, ConstitutionalError), found.output
    return str(found.exception)


def with_lines(folder: Path, *lines: str) -> tuple[Path, int]:
    """The small recipe with every step and these lines at its end; the number of the last."""
    recipe = write_recipe(folder)
    kept = [line for line in recipe.read_text().splitlines() if not line.startswith("stages:")]
    text = TRAINED + "\n".join([*kept, *lines]) + "\n"
    recipe.write_text(text)
    return recipe, text.count("\n")


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (
            ("sft: {trl: {learning_rat: 1.0e-5}}",),
            "sft.trl.learning_rat: unknown setting (did you mean 'learning_rate'?)",
        ),
        (("pm:", "  trl: {max_length: long}"), "pm.trl.max_length: "),
        (("rl: {trl: {seed: 3}}",), "rl.trl.seed: cannot be set here"),
        (("rl: {trl: {max_steps: 3}}",), "rl.trl.max_steps: cannot be set here"),
        (("rl: {trl: {logging_steps: 3}}",), "rl.trl.logging_steps: cannot be set here"),
        (("rl: {algorithm: dpo, trl: {beta: 0.3}}",), "rl.trl.beta: cannot be set here"),
        (("rl: {algorithm: dpo, trl: {label_smoothing: 0.3}}",), "rl.trl.label_smoothing: cannot be set here"),
        (("sft: {trl: {packing: true}}",), "sft.trl.packing: cannot be set here"),
        (("rl: {algorithm: dpo, trl: {num_generations: 3}}",), "rl.trl.num_generations: unknown setting"),
        (("rl: {algorithm: best_of_n, trl: {betta: 3}}",), "rl.trl.betta: unknown setting"),
    ],
)
def test_what_trl_does_not_know_is_told_at_once(tmp_path: Path, lines: tuple[str, ...], said: str) -> None:
    recipe, number = with_lines(tmp_path, *lines)
    for command in (("validate",), ("run", "--out", tmp_path / "run"), ("estimate",)):
        assert said in (told := refused(command[0], recipe, *command[1:])) and "\n" not in told
        assert told.startswith(f"{recipe}:{number}:"), told
    assert not (tmp_path / "run").exists()


def test_what_only_soft_labels_refuse_is_taken_with_hard_ones(tmp_path: Path) -> None:
    recipe, _ = with_lines(tmp_path, "rl: {algorithm: dpo, dpo: {labels: hard}, trl: {label_smoothing: 0.3}}")
    check_trainings(load_recipe(recipe), ["rl"])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("constitution: minimall", "constitution: no constitution 'minimall' (did you mean 'minimal'?)"),
        ("constitution: nope.yaml", "constitution: nope.yaml: no such file"),
        ("templates: chatt", "templates: no template pack 'chatt'"),
        ("feedback: embedded:smollm", "feedback: no embedded model 'smollm'"),
        ("judge: embedded:smollm", "judge: no embedded model 'smollm'"),
        ("prompts: {red_team: {path: nope.jsonl}, helpful: {path: help.jsonl}}", "prompts.red_team.path: "),
    ],
)
def test_a_name_that_leads_nowhere_is_told_with_its_line(tmp_path: Path, line: str, said: str) -> None:
    recipe = write_recipe(tmp_path)
    name = line.partition(":")[0]
    data = yaml.safe_load(recipe.read_text())
    data.pop(name, None)
    text = yaml.safe_dump(data, sort_keys=False) + line + "\n"
    recipe.write_text(text)
    told = refused("validate", recipe)
    assert told.startswith(f"{recipe}:{text.count(chr(10))}:") and said in told and "\n" not in told


GOOD, BAD = "scripted:model.yaml", "embedded:smollm"


@pytest.mark.parametrize(
    ("own", "strict", "labels", "said"),
    [
        (GOOD, BAD, "", "judging: judging.judges 'strict': no embedded model 'smollm'"),
        (GOOD, BAD, "labels: strict, ", "judging: judging.judges 'strict': no embedded model 'smollm'"),
        (BAD, GOOD, "", "judge: judge: no embedded model 'smollm'"),
        (BAD, GOOD, "labels: strict, ", "judge: judge: no embedded model 'smollm'"),
    ],
)
def test_a_judge_that_is_not_there_is_told_where_it_is_named(
    tmp_path: Path, own: str, strict: str, labels: str, said: str
) -> None:
    """Whichever of several makes the labels, and so stands first."""
    recipe = write_recipe(tmp_path)
    kept = [line for line in recipe.read_text().splitlines() if not line.startswith(("judge:", "judging:"))]
    lines = (f"judge: {own}", f"judging: {{{labels}judges: [{{name: strict, model: '{strict}'}}]}}")
    recipe.write_text("\n".join([*kept, *lines]) + "\n")
    setting, _, message = said.partition(": ")
    told = refused("validate", recipe)
    number = len(kept) + 1 + (setting == "judging")
    assert told.startswith(f"{recipe}:{number}:") and told.partition(" ")[2].startswith(message), told


def test_a_section_that_is_replaced_has_the_place_of_what_replaces_it(tmp_path: Path) -> None:
    recipe, _ = with_lines(tmp_path, "sft: {trl: {learning_rate: 1.0e-5}}")
    given = "sft={trl: {learning_rat: 1}}"
    told = refused("estimate", recipe, "--set", given)
    assert told.startswith(f"--set {given}: sft.trl.learning_rat: unknown setting")
    over = tmp_path / "over.yaml"
    over.write_text("extends: recipe.yaml\nsft:\n  trl: {learning_rat: 1}\n")
    assert refused("validate", over).startswith(f"{over}:3:")


def test_an_error_late_in_a_run_is_told_though_the_recipe_is_gone(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    with pytest.raises(BackendError) as found, placing(recipe), naming_key("policy"):
        recipe.unlink()
        raise BackendError("the weights are damaged", retryable=True)
    assert re.fullmatch(rf"{recipe}:\d+:\d+: policy: the weights are damaged", str(found.value))
    assert found.value.retryable


def test_what_an_option_sets_has_the_option_for_its_place(tmp_path: Path) -> None:
    recipe, _ = with_lines(tmp_path, "rl: {trl: {learning_rate: 1.0e-5}}")
    told = refused("run", recipe, "--out", tmp_path / "run", "--set", "rl.trl.betta=1")
    assert told.startswith("--set rl.trl.betta=1: rl.trl.betta: unknown setting")


def test_only_messages_of_settings_get_a_place(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    for message in (
        "no such file",
        "prompt: nothing",
        "judge says: no",
        "stages: 1 is left out of it",
        "x.jsonl: empty",
    ):
        own, place = placed(message, recipe_marks(recipe)), f"{recipe}:6:"
        assert own.startswith(place) if message.startswith("stages:") else own == message
    marks = recipe_marks(recipe, ["stages=[judge]"])
    assert placed("stages: none", marks) == "--set stages=[judge]: stages: none"


def test_a_file_of_another_kind_is_called_by_its_name(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    assert "constitution.yaml: a constitution, where a recipe is wanted" in refused(
        "run", tmp_path / "constitution.yaml"
    )
    told = refused("validate", ROOT / "examples/04_many_gpus/ddp.yaml")
    assert told.count("known:") == 1 and "unknown key 'num_processes'" in told
    assert "no run.yaml in it" in refused("status", tmp_path)
    assert f"{recipe} is not a run folder: a file" in refused("status", recipe)
    found = CliRunner().invoke(app, ["ledger", "verify", str(recipe)])
    assert found.exit_code == 1 and f"{recipe}: no ledger: not a file of SQLite" in found.output
    assert f"({tmp_path} is a folder: name a file in it)" in refused("lint", tmp_path)


def test_a_shipped_constitution_is_checked_by_name() -> None:
    found = CliRunner().invoke(app, ["validate", "minimal"])
    assert found.exit_code == 0 and "constitution minimal@" in found.output
    assert "nothing.yaml: cannot be read" in refused("validate", "nothing.yaml")


def test_words_of_a_beginner(tmp_path: Path) -> None:
    recipe, _ = with_lines(tmp_path, "extend: base.yaml")
    assert "unknown key 'extend' (did you mean 'extends'?)" in refused("validate", recipe)
    constitution = tmp_path / "constitution.yaml"
    constitution.write_text(constitution.read_text().replace("version: 1.0.0", "version: '1'", 1))
    assert 'version: expected three numbers, such as 1.0.0 (got "1")' in refused("validate", constitution)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_the_schema_of_recipes_fits_every_shipped_one(path: Path) -> None:
    data = yaml.safe_load(path.read_text())
    schema = json.loads(CliRunner().invoke(app, ["schema", "--recipe"]).output)
    assert schema == recipe_schema()
    Draft202012Validator.check_schema(schema)
    checked = Draft202012Validator(schema)
    assert not list(checked.iter_errors(data))
    assert list(checked.iter_errors({**data, "sedd": 1})) and list(checked.iter_errors({**data, "seed": "one"}))
    required = {name: data[name] for name in data if name not in ("constitution", "extends")}
    assert list(checked.iter_errors(required))


def test_a_constitution_with_a_slip_in_it_is_told_as_one(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    path = tmp_path / "constitution.yaml"
    whole = path.read_text()
    for slip, said in (("titel: Tiny", "unknown key 'titel' (did you mean 'title'?)"), ("", "missing key 'title'")):
        path.write_text(whole.replace("title: Tiny", slip, 1))
        told = refused("validate", path)
        assert said in told and "policy" not in told
    recipe.write_text(recipe.read_text().replace("policy:", "polici:"))
    assert "unknown key 'polici' (did you mean 'policy'?)" in refused("validate", recipe)


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("gate: {fallback: provenance, human: nope.jsonl}", "gate.human"),
        ("pm: {human: [{path: nope.jsonl}]}", "pm.human"),
        ("evaluation: {perplexity: {answers: nope.jsonl}}", "evaluation.perplexity.answers"),
    ],
)
def test_a_file_that_is_asked_for_late_is_missed_at_once(tmp_path: Path, line: str, key: str) -> None:
    recipe = write_recipe(tmp_path)
    name = line.partition(":")[0]
    kept = [text for text in recipe.read_text().splitlines() if not text.startswith((name, "stages"))]
    recipe.write_text("\n".join([*kept, line]) + "\n")
    save_tiny_model(tmp_path / "policy", context=512)
    sets = ("--set", "policy=local:policy", "--set", "feedback=scripted:model.yaml")
    told = refused("run", recipe, "--out", tmp_path / "run", *sets)
    assert told.startswith(f"{recipe}:{len(kept) + 1}:") and f" {key}: nope.jsonl: no such file" in told, told
    assert not (tmp_path / "run").exists()


def test_a_file_that_is_not_there_is_told_with_the_nearest_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = write_recipe(tmp_path)
    for words in (("validate", tmp_path / "recipe.yml"), ("lint", tmp_path / "constitutoin.yaml")):
        named = "recipe.yaml" if words[0] == "validate" else "constitution.yaml"
        assert f"(did you mean '{named}'?)" in refused(*words)
    recipe.write_text(recipe.read_text().replace("scripted:model.yaml", "scripted:modle.yaml"))
    assert "(did you mean 'model.yaml'?)" in refused("validate", recipe)
    recipe.write_text(recipe.read_text().replace("modle", "model").replace("red.jsonl", "rde.jsonl"))
    assert "no such file (did you mean 'red.jsonl'?)" in refused("validate", recipe)
    assert "did you mean" not in refused("validate", tmp_path / "none" / "recipe.yaml")


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("nope", "unknown model spec 'nope': expected KIND:NAME (known: local, embedded"),
        ("scripted:", "unknown model spec 'scripted:': expected scripted:NAME"),
        ("scripted", "unknown model spec 'scripted': expected scripted:NAME"),
        ("skripted:x", "expected KIND:NAME (did you mean 'scripted'?)"),
    ],
)
def test_a_model_that_is_named_wrongly_is_told_how(tmp_path: Path, spec: str, said: str) -> None:
    (tmp_path / "p.jsonl").write_text('{"prompt": "p"}\n')
    assert said in refused("coverage", "minimal", "--prompts", tmp_path / "p.jsonl", "--judge", spec)
