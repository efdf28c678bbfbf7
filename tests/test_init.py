"""`constitutional init`: a starter that is whole, explained, and never written over anything."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

from constitutional.cli.app import app
from constitutional.constitution import load_constitution
from constitutional.constitution.lint import lint
from constitutional.constitution.source import ConstitutionFile, file_schema
from constitutional.constitution.starter import start
from constitutional.errors import ConstitutionError
from constitutional.principles import Change, Example, Principle


def call(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_starter_validates_lints_clean_and_fits_the_schema_beside_it(here: Path) -> None:
    told = call("init")
    assert "wrote constitution.yaml\nwrote constitution.schema.json\n" in told
    assert "constitution constitution@1.0.0, 3 principles" in call("validate", "constitution.yaml")
    assert call("lint", "constitution.yaml") == "constitution.yaml: ok\n"
    schema = json.loads(Path("constitution.schema.json").read_text())
    assert schema == file_schema()
    Draft202012Validator(schema).validate(yaml.safe_load(Path("constitution.yaml").read_text()))
    assert (
        Path("constitution.yaml").read_text().startswith("# yaml-language-server: $schema=constitution.schema.json\n")
    )


def test_every_step_it_prints_is_a_command(here: Path) -> None:
    told = call("init", "my file.yaml")
    steps = [line.strip() for line in told.splitlines() if line.startswith("  constitutional ")]
    assert len(steps) >= 3 and all("'my file.yaml'" in step for step in steps)
    names = {command.name or command.callback.__name__ for command in app.registered_commands}  # type: ignore[union-attr]
    assert {step.split()[1] for step in steps} <= names


def test_every_field_is_used_or_shown_after_a_comment(here: Path) -> None:
    call("init")
    lines = Path("constitution.yaml").read_text().splitlines()
    explained = set()
    for before, line in itertools.pairwise(lines):
        found = re.match(r"\s*(?:#: |- )?([a-z_]+):", line)
        if found and before.lstrip().startswith("#"):
            explained.add(found[1])
    whole = " ".join(lines)
    for model in (ConstitutionFile, Principle):
        missing = set(model.model_fields) - explained
        # these stand under a line that is explained together with them
        assert missing <= {"remove", "override"} and all(f"{name}:" in whole for name in missing), model
    for model in (Example, Change):
        assert all(re.search(rf"\b{name}: ", whole) for name in model.model_fields)


def test_the_shapes_differ_and_lint_would_tell_if_the_examples_gave_it_away(here: Path) -> None:
    call("init")
    constitution = load_constitution("constitution.yaml")
    assert len({p.phases for p in constitution.principles}) == 3
    judged = [p for p in constitution.principles if p.comparison_request]
    assert all(len(p.examples) >= 4 for p in judged)
    longer = [len(e.better) > len(e.worse) for p in judged for e in p.examples]
    assert sum(longer) * 2 == len(longer)
    assert lint(constitution) == ()


@pytest.mark.parametrize(
    "line",
    [
        "extends: [minimal]",
        "score_request: How openly does the response say how sure it is, from 1 to 10?",
        "conflicts: [says-when-unsure]",
        "changelog: [{version: 1.0.0, text: First wording.}]",
        "lint_ignore: [one-phase]",
        "check: my_package.my_module:my_function",
    ],
)
def test_the_fields_that_are_commented_out_can_be_taken_in(here: Path, line: str) -> None:
    call("init")
    text = Path("constitution.yaml").read_text()
    assert f"#: {line}" in text
    Path("constitution.yaml").write_text(text.replace(f"#: {line}", line))
    load_constitution("constitution.yaml")


def test_the_few_shots_that_are_commented_out_can_be_taken_in(here: Path) -> None:
    call("init")
    text = Path("constitution.yaml").read_text()
    start = text.index("#: few_shots:")
    block = text[start : text.index("# Other", start)]
    Path("constitution.yaml").write_text(text.replace(block, block.replace("#: ", "")))
    few_shots = load_constitution("constitution.yaml").few_shots
    assert few_shots is not None and len(few_shots.revision) == len(few_shots.comparison) == 1


def test_nothing_is_written_over(here: Path) -> None:
    Path("mine.yaml").write_text("dear to me")
    Path("link.yaml").symlink_to("nowhere.yaml")
    Path("constitution.schema.json").write_text("{}")
    for name in ("mine.yaml", "link.yaml"):
        with pytest.raises(ConstitutionError, match=f"^{name}: is there already"):
            start(Path(name), "x")
    assert Path("mine.yaml").read_text() == "dear to me" and not Path("nowhere.yaml").exists()
    assert start(Path("new.yaml"), "new") == (Path("new.yaml"),)
    assert Path("constitution.schema.json").read_text() == "{}"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("mine", "ends in .yaml or .yml"),
        ("mine.lock", "ends in .yaml or .yml"),
        ("none/mine.yaml", "No such file"),
        ("a\nb.txt", r"^a\\nb.txt: "),
        ("x" * 300 + ".yaml", "too long"),
    ],
)
def test_a_path_that_cannot_be_is_one_line(here: Path, name: str, reason: str) -> None:
    with pytest.raises(ConstitutionError, match=reason) as caught:
        start(Path(name), "x")
    assert "\n" not in str(caught.value)
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(("name", "id"), [("true.yaml", "true"), ("1.5.yml", "1.5"), ("My Rules!.yaml", "my-rules")])
def test_the_file_gives_the_name(here: Path, name: str, id: str) -> None:
    call("init", name)
    assert load_constitution(name).id == id
