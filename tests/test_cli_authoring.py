"""The commands of authors, as they are typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

from constitutional.cli.app import app
from constitutional.constitution import load_constitution
from constitutional.errors import ConfigError, ConstitutionError

ROOT = Path(__file__).parents[1]
SHIPPED = sorted((ROOT / "constitutions").glob("*.yaml"))
FILE = """\
id: mine
version: 1.0.0
title: Mine
principles:
  - id: kind
    version: 1.0.0
    title: Kind
    revision_request: Write a kind answer.
    comparison_request: Which response is kinder?
    phases: [judge]
    examples:
      - {prompt: Hi, better: Hello there, worse: Go away now}
"""


def call(*arguments: str | Path, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(FILE)
    return path


def test_the_shipped_schema_is_the_one_printed_and_takes_our_files() -> None:
    printed = json.loads(call("schema"))
    assert json.loads((ROOT / "constitutions" / "constitution.schema.json").read_text()) == printed
    validator = Draft202012Validator(printed)
    for path in SHIPPED:
        validator.validate(yaml.safe_load(path.read_text()))
        assert path.read_text().startswith("# yaml-language-server: $schema=constitution.schema.json\n")
    assert not validator.is_valid({"id": "x", "version": "1", "title": "x"})
    principle = printed["$defs"]["Principle"]["properties"]
    assert "description" in principle["comparison_request"]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_our_constitutions_pass_their_own_lint(path: Path) -> None:
    assert call("lint", path).endswith(": ok\n")


def test_lint_names_the_place_and_the_reason(file: Path) -> None:
    file.write_text(FILE.replace("Which response is kinder?", "Which response is kinder and more honest?"))
    text = call("lint", file, code=1)
    assert f"{file}:9:" in text and "double-barrelled" in text and "docs/LOG.md" in text
    row = json.loads(call("lint", file, "--json", code=1))[0]
    assert row["rule"] == "double-barrelled" and row["place"].startswith(f"{file}:9:")


def test_a_text_changed_under_its_version_fails_until_it_is_bumped(file: Path) -> None:
    call("lock", file)
    call("validate", file)
    file.write_text(FILE.replace("kinder?", "the kinder one?"))
    with pytest.raises(ConstitutionError, match="kind") as failed:
        call("validate", file)
    assert "comparison_request" in str(failed.value)
    assert call("bump", "kind", file, "--text", "a clearer question") == "kind@1.1.0\n"
    call("lock", file)
    call("validate", file)
    principle = load_constitution(str(file)).principles[0]
    assert principle.ref == "kind@1.1.0" and principle.changelog[0].text == "a clearer question"


def test_bump_finds_the_file_and_raises_the_number_asked_for(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    (file.parent / "recipe.yaml").write_text("constitution: mine.yaml\n")
    assert call("bump", "kind", "--patch") == "kind@1.0.1\n"
    assert call("bump", "kind", "--minor") == "kind@1.1.0\n"
    assert call("bump", "kind", "--major") == "kind@2.0.0\n"
    assert "give one of" in call("bump", "kind", "--major", "--minor", code=2)
    with pytest.raises(ConstitutionError, match=r"no constitution here .* 'knd' \(did you mean 'kind'\?\)"):
        call("bump", "knd")
    (file.parent / "twin.yaml").write_bytes(file.read_bytes())
    with pytest.raises(ConstitutionError, match=r"several constitutions .* \(mine.yaml, twin.yaml\): name the file"):
        call("bump", "kind")


def test_diff_in_words_and_json(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(FILE.replace("kinder?", "the kinder one?").replace("    version: 1.0.0", "    version: 1.0.1"))
    assert "kinder one" in call("diff", file, other)
    assert json.loads(call("diff", file, other, "--json"))
    assert "kind" not in call("diff", file, file)


def test_show_says_where_a_field_comes_from(file: Path, tmp_path: Path) -> None:
    child = tmp_path / "child.yaml"
    child.write_text(
        "id: child\nversion: 1.0.0\ntitle: Child\nextends: [mine.yaml]\noverride: {kind: {title: Kinder}}\n"
    )
    shown = call("show", child)
    assert "Kinder" in shown and "mine.yaml:9:" in shown and "child.yaml:5:" in shown


def test_export_and_import_again(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "paper.json"
    text = call("export", file, "--format", "cai-rl", "--out", out)
    assert f"wrote {out}" in text and "not held: " in text
    assert "Which response is kinder?" in out.read_text()
    assert "Which response is kinder?" in call("import", out, "--format", "cai-rl")
    with pytest.raises(ConfigError, match="did you mean 'cai-rl'"):
        call("export", file, "--format", "cai-rll")


def test_few_shots_come_in_and_go_out_beside_a_constitution(tmp_path: Path) -> None:
    paper, shots, ours = tmp_path / "paper.json", tmp_path / "shots.json", tmp_path / "ours.yaml"
    paper.write_text(json.dumps(["\nWhich response is kinder? Options:"]))
    asked = {"prompt": "\n\nHuman: Hi\n\nAssistant:", "corrects": ["Hello"], "incorrects": ["What?"]}
    shots.write_text(json.dumps([asked, {**asked, "prompt": "Hi"}]))
    told = call("import", paper, "--format", "cai-rl", "--few-shots", shots, "--out", ours)
    assert f"not held: {shots}: few-shot 1: not of the form" in told
    assert load_constitution(str(ours)).few_shots is not None
    back, again = tmp_path / "back.json", tmp_path / "again.json"
    told = call("export", ours, "--format", "cai-rl", "--few-shots", again, "--out", back)
    assert json.loads(again.read_text()) == [asked] and json.loads(back.read_text()) == json.loads(paper.read_text())
    assert "few" not in told.replace(str(tmp_path), "")
    assert "not held: 1 few-shots of a comparison" in call("export", ours, "--format", "cai-rl")
    with pytest.raises(ConfigError, match="no few-shot format ''"):
        call("export", ours, "--format", "icai", "--few-shots", again)
