from pathlib import Path

import pytest

from constitutional.config import load_recipe, resolve_path
from constitutional.errors import ConfigError

BASE = """\
name: demo
constitution: minimal
policy: embedded:smollm2-135m
prompts:
  red_team: {path: red.jsonl}
  helpful: {path: helpful.jsonl, limit: 8}
"""


def recipe_file(folder: Path, text: str = BASE, name: str = "run.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def error_of(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_recipe(path, overrides)
    return str(caught.value).replace(f"{path.parent}/", "").splitlines()


def test_the_smallest_recipe_has_the_defaults(tmp_path: Path) -> None:
    recipe = load_recipe(recipe_file(tmp_path))
    assert (recipe.feedback, recipe.judge, recipe.templates, recipe.seed) == ("self", None, None, 0)
    assert recipe.prompts.helpful.limit == 8 and recipe.prompts.benign is None
    assert recipe.judging.principles_per_comparison == "all"
    assert recipe.gate.fallback == "stop"
    assert recipe.sampling.policy.temperature is None
    assert type(recipe).model_validate_json(recipe.to_json(), strict=True) == recipe


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (
            "sft:\n  helpful_ration: 2\n",
            ["8:3: sft.helpful_ration: unknown key 'helpful_ration' (did you mean 'helpful_ratio'?)"],
        ),
        ("seed: one\n", ['7:1: seed: Input should be a valid integer (got "one")']),
        ("seed: true\n", ["7:1: seed: Input should be a valid integer (got true)"]),
        ("revise: {rounds: 0}\n", ["7:10: revise.rounds: Input should be greater than or equal to 1 (got 0)"]),
        ("revise: {critique: no}\n", ['7:10: revise.critique: Input should be a valid boolean (got "no")']),
        (
            "rl: {algorithm: pppo}\n",
            ["7:6: rl.algorithm: Input should be 'ppo', 'grpo', 'rloo', 'dpo' or 'best_of_n' (got \"pppo\")"],
        ),
        (
            "judging: {principles_per_comparison: some}\n",
            [
                "7:11: judging.principles_per_comparison: "
                "Input should be a valid integer or Input should be 'all' (got \"some\")"
            ],
        ),
        ("feedback: qwen\n", ['7:1: feedback: expected a model spec KIND:NAME (got "qwen")']),
        (
            "sft: {lora: {rank: 8}}\n",
            ["7:14: sft.lora.rank: unknown key 'rank' (known: alpha, dropout, r, target_modules)"],
        ),
        ("seed: 1\nseed: 2\n", ["8:1: duplicate key 'seed' (first at run.yaml:7:1)"]),
        ("seed: &s 1\n", ["7:7: anchor '&s': anchors are not allowed"]),
        ("pm: {heldout: 1.5}\n", ["7:6: pm.heldout: Input should be less than 1 (got 1.5)"]),
    ],
)
def test_mistakes_say_where(tmp_path: Path, text: str, lines: list[str]) -> None:
    assert error_of(recipe_file(tmp_path, BASE + text)) == [f"run.yaml:{line}" for line in lines]


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden", "a\\nb", "-x"])
def test_a_name_is_safe_as_a_folder(tmp_path: Path, name: str) -> None:
    path = recipe_file(tmp_path, BASE.replace("name: demo", f'name: "{name}"'))
    (line,) = error_of(path)
    assert line.startswith("run.yaml:1:1: name: String should match pattern")


def test_missing_keys_are_placed_at_their_nearest_parent(tmp_path: Path) -> None:
    path = recipe_file(
        tmp_path, "name: demo\nconstitution: minimal\npolicy: local:x\nprompts:\n  red_team: {limit: 3}\n"
    )
    assert error_of(path) == [
        "run.yaml:5:3: prompts.red_team: missing key 'path'",
        "run.yaml:4:1: prompts: missing key 'helpful'",
    ]


def test_overrides_read_as_yaml_and_win(tmp_path: Path) -> None:
    overrides = [
        "seed=7",
        "name=1e3x",
        "sft.lora.r=8",
        "sft.trl.learning_rate=1e-6",
        "sft.trl.optim=sgd",
        "sft.trl.packing=true",
        "revise.principles=[kind, 'true']",
        "prompts.benign={path: b.jsonl}",
        "judge=scripted:a=b",
        "prompts.helpful.limit=~",
        'constitution="12"',
    ]
    recipe = load_recipe(recipe_file(tmp_path), overrides)
    assert (recipe.seed, recipe.name, recipe.judge, recipe.constitution) == (7, "1e3x", "scripted:a=b", "12")
    assert recipe.sft.lora is not None and recipe.sft.lora.r == 8
    assert recipe.sft.trl == {"learning_rate": 1e-6, "optim": "sgd", "packing": True}
    assert recipe.revise.principles == ("kind", "true")
    assert recipe.prompts.benign is not None and recipe.prompts.benign.path == "b.jsonl"
    assert recipe.prompts.helpful.path == "helpful.jsonl" and recipe.prompts.helpful.limit is None


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("sft.helpful_ration=2", "sft.helpful_ration: unknown key 'helpful_ration' (did you mean 'helpful_ratio'?)"),
        ("sfft.helpful_ratio=2", "sfft: unknown key 'sfft' (did you mean 'sft'?)"),
        ("revise.rounds=two", 'revise.rounds: Input should be a valid integer (got "two")'),
        ("seed.x=1", "seed: Input should be a valid integer (got a mapping)"),
        ("seed", "expected section.key=value"),
        ("a..b=1", "expected section.key=value"),
        ("=1", "expected section.key=value"),
        ("pm.heldout=1e999", "number out of range"),
        ("prompts=", "prompts: missing"),
        ("judging.labels=b", "judging: labels: no judge is called 'b' (known: judge)"),
        ("extends=nope.yaml", "extends: is read before anything is set: name the files in the recipe"),
        ("label.clamp=[0.4]", "label.clamp: item 2 is missing"),
        ("stages=[]", "stages: Tuple should have at least 1 item after validation, not 0 (got a list)"),
    ],
)
def test_bad_overrides_are_quoted(tmp_path: Path, override: str, line: str) -> None:
    assert error_of(recipe_file(tmp_path), override) == [f"--set {override}: {line}"]


def test_what_a_file_leaves_out_is_not_told_of_something_else_that_was_set(tmp_path: Path) -> None:
    path = recipe_file(tmp_path, "name: n\nconstitution: minimal\npolicy: scripted:m.yaml\njudging: {labels: b}\n")
    assert error_of(path, "seed=3", "judging.limit=3") == [
        "run.yaml:4:11: judging: labels: no judge is called 'b' (known: judge)"
    ]
    path.write_text(path.read_text().replace("judging: {labels: b}\n", ""))
    assert error_of(path, "seed=3", "judging.limit=3") == ["run.yaml:1:1: prompts: missing"]


def test_extends_lays_files_over_one_another(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    recipe_file(tmp_path / "base", BASE + "revise: {rounds: 2, candidates: 3}\nseed: 1\n", "base.yaml")
    recipe_file(tmp_path, "extends: base/base.yaml\nrevise: {rounds: 4}\n", "middle.yaml")
    recipe_file(tmp_path, "seed: 5\nrl: {steps: 2}\n", "other.yaml")
    path = recipe_file(tmp_path, "extends: [middle.yaml, other.yaml]\nname: mine\n")
    recipe = load_recipe(path, ["rl.kl=0.5"])
    assert (recipe.name, recipe.seed, recipe.rl.steps, recipe.rl.kl) == ("mine", 5, 2, 0.5)
    assert (recipe.revise.rounds, recipe.revise.candidates) == (4, 3)


def test_a_mistake_in_a_base_is_placed_in_the_base(tmp_path: Path) -> None:
    recipe_file(tmp_path, BASE + "sede: 1\n", "base.yaml")
    path = recipe_file(tmp_path, "extends: base.yaml\nseed: x\n")
    assert error_of(path) == [
        'run.yaml:2:1: seed: Input should be a valid integer (got "x")',
        "base.yaml:7:1: sede: unknown key 'sede' (did you mean 'seed'?)",
    ]


def test_extends_refuses_circles_and_absent_files(tmp_path: Path) -> None:
    recipe_file(tmp_path, "extends: run.yaml\n", "b.yaml")
    assert error_of(recipe_file(tmp_path, BASE + "extends: b.yaml\n")) == [
        "b.yaml:1:1: extends: goes in a circle (run.yaml -> b.yaml -> run.yaml)"
    ]
    assert error_of(recipe_file(tmp_path, "extends: run.yaml\n")) == [
        "run.yaml:1:1: extends: goes in a circle (run.yaml -> run.yaml)"
    ]
    assert error_of(recipe_file(tmp_path, "name: x\nextends: no.yaml\n")) == [
        "run.yaml:2:1: extends: no such file 'no.yaml'"
    ]
    assert error_of(recipe_file(tmp_path, "extends: 3\n")) == [
        "run.yaml:1:1: extends: expected a file or a list of files"
    ]
    assert error_of(recipe_file(tmp_path, "- x\n")) == ["run.yaml:1:1: expected a mapping of keys at the top"]


def test_the_same_base_twice_is_no_circle(tmp_path: Path) -> None:
    recipe_file(tmp_path, BASE, "base.yaml")
    recipe_file(tmp_path, "extends: base.yaml\nseed: 3\n", "a.yaml")
    path = recipe_file(tmp_path, "extends: [a.yaml, base.yaml]\n")
    assert load_recipe(path).seed == 3


def test_paths_lead_beside_the_recipe_then_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    (here / "both").touch()
    (there / "both").touch()
    (here / "only").touch()
    monkeypatch.chdir(here)
    recipe = there / "run.yaml"
    assert resolve_path(recipe, "both") == there / "both"
    assert resolve_path(recipe, "only") == here / "only"
    assert resolve_path(recipe, "owner/name") == Path("owner/name")
    assert resolve_path(Path("../there/run.yaml"), "both") == there / "both"
    assert resolve_path(recipe, str(here / "only")) == here / "only"
