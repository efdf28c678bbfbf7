"""What is refused in one line: texts and settings that would mean nothing, and files that are not one's own."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from constitutional.cli.app import app
from constitutional.errors import ConstitutionalError
from constitutional.resources import packaged

GOOD = """\
id: mine
version: 1.0.0
title: Mine
principles:
  - id: kind
    version: 1.0.0
    title: Kind
    comparison_request: Which is kinder?
    examples:
      - {prompt: Hi, better: Hello., worse: Go away.}
"""


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
