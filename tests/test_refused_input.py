"""What is refused in one line: texts and settings that would mean nothing, and files that are not one's own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from recipes import write_recipe
from test_cli_authoring import FILE
from typer.testing import CliRunner

from constitutional.cli.app import app
from constitutional.config import load_recipe
from constitutional.constitution import load_constitution
from constitutional.errors import ConstitutionalError
from constitutional.pipeline.inputs import load_inputs
from constitutional.resources import packaged

GOOD = FILE.replace("    phases: [judge]\n", "")


def refused(*words: str) -> str:
    """The one line an invocation ends with."""
    found = CliRunner().invoke(app, list(words))
    assert isinstance(found.exception, ConstitutionalError), found.output
    (line,) = str(found.exception).splitlines()
    return line


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('    paraphrases: ["Which is nicer?", " "]\n', "principles.0.paraphrases.1: empty text"),
        ('    negated_comparison_request: ""\n', "principles.0.negated_comparison_request: empty text"),
        ('    score_request: " "\n', "principles.0.score_request: empty text"),
        ('    applies_when: ""\n', "principles.0.applies_when: empty text"),
        ("    phases: []\n", "principles.0.phases"),
        ("    weight: 1.7e308\n", "principles.0.weight"),
    ],
)
def test_what_would_say_nothing_is_refused(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD)
    assert CliRunner().invoke(app, ["validate", str(path)]).exit_code == 0
    path.write_text(GOOD + line)
    found = refused("validate", str(path))
    assert said in found and "mine.yaml:" in found


def test_an_example_to_choose_wordings_on_confirms_none(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    (line,) = (line for line in GOOD.splitlines() if "better:" in line)
    path.write_text(GOOD + line.replace("}", ", split: tuning}").replace("Hi", "Hello") + "\n")
    assert CliRunner().invoke(app, ["validate", str(path)]).exit_code == 0
    path.write_text(GOOD + line.replace("}", " , split: tuning}").replace("Hi", '" Hi "') + "\n")
    found = refused("validate", str(path))
    assert "principles.0.examples.0: stands among the tuning examples, too" in found and "mine.yaml:" in found


def test_a_pack_that_is_not_there_is_told_with_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "elsewhere" / "mine.yaml"
    shutil.copytree(packaged("prompts") / "chat", path.parent / "own")
    settings = path.parent / "own" / "pack.yaml"
    settings.write_text(settings.read_text().replace("id: chat", "id: own"))
    path.write_text(GOOD + "template_pack: chatt\n")
    lines = len(path.read_text().splitlines())
    found = refused("validate", str(path))
    assert f"mine.yaml:{lines}:" in found and "template_pack: no template pack 'chatt' (did you mean 'chat'?)" in found
    for known in ("chat", "own"):  # a shipped one, and one beside the file
        path.write_text(GOOD + f"template_pack: {known}\n")
        assert CliRunner().invoke(app, ["validate", str(path)]).exit_code == 0
    shown = CliRunner().invoke(app, ["render", "judge", "--plain", "--principle", "kind", "--constitution", str(path)])
    assert shown.exit_code == 0 and "templates own@" in shown.output
    recipe = write_recipe(tmp_path / "recipes")
    recipe.write_text(recipe.read_text().replace("constitution: constitution.yaml", f"constitution: {path}"))
    assert load_inputs(load_recipe(recipe, ["stages=[sample, gate]"]), recipe).pack.ref.startswith("own@")
    (path.parent / "own" / "judge.j2").write_text("{{ nothing }}")
    assert "judge.j2:1:" in refused("validate", str(path))


def test_what_would_turn_text_on_a_terminal_is_shown_by_number(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD.replace("title: Kind", r'title: "Güte\u202eKind\nund"'))
    shown = CliRunner().invoke(app, ["show", str(path)]).output
    assert r"\u202e" in shown.lower() and "\u202e" not in shown
    assert load_constitution(str(path)) == load_constitution(str(write(tmp_path / "again.yaml", shown)))
    path.write_text(GOOD.replace("title: Kind", r'title: "Güte\nKind"'))
    assert "Güte" in CliRunner().invoke(app, ["show", str(path)]).output


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_shipped_constitution_is_not_raised_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # no folder of one's own goes before the packaged one
    folder = packaged("constitutions")
    assert folder is not None
    before = (folder / "minimal.yaml").read_bytes()
    try:
        assert "minimal: a shipped constitution" in refused("bump", "kind", "minimal")
        assert (folder / "minimal.yaml").read_bytes() == before
    finally:
        (folder / "minimal.yaml").write_bytes(before)


def test_a_ledger_that_is_a_folder_and_an_unknown_display(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(GOOD)
    Path("judge.yaml").write_text("default_reply: ok\n")
    asked = ["test", "mine.yaml", "--judge", "scripted:judge.yaml"]
    assert ".: is a folder: name a file" in refused(*asked, "--display", "none", "--ledger", ".")
    assert "no display 'richh' (did you mean 'rich'?)" in refused(*asked, "--display", "richh")
