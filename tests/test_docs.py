"""The documents' examples do what the documents say. UPDATE_DOCS=1 writes what they print into them."""

import os
import re
from pathlib import Path

import pytest
from constitution_files import principle, write
from doc_examples import examples, run_document
from typer.main import get_command

from constitutional.cli.app import app
from constitutional.constitution import load_constitution

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.slow
def test_the_authoring_tutorial_runs_as_it_is_written(tmp_path: Path) -> None:
    path, folder = DOCS / "authoring.md", tmp_path / "work"
    folder.mkdir()
    text = path.read_text(encoding="utf-8")
    now, ran = run_document(text, folder)
    if os.environ.get("UPDATE_DOCS"):
        path.write_text(now, encoding="utf-8")
    for example, output in ran:
        assert output == example.output, f"{path.name}:{example.line}: $ {example.command}"
    assert len(ran) >= 15 and now == text
    assert str(tmp_path) not in now and "/work" not in now  # nothing of this machine


def test_the_tutorial_goes_from_init_to_a_published_constitution() -> None:
    text = (DOCS / "authoring.md").read_text(encoding="utf-8")
    typed = re.findall(r"^\$ constitutional (\w+)", text, re.MULTILINE)
    first = list(dict.fromkeys(typed))
    assert first[0] == "init" and {"validate", "lint", "render", "test", "lock", "bump", "diff", "show"} <= set(first)
    assert first.index("lint") < first.index("test") < first.index("lock") < first.index("bump")
    commands = get_command(app).commands  # type: ignore[attr-defined]
    named = set(re.findall(r"`constitutional (\w+)", text)) | set(typed)
    assert named <= set(commands)


def test_a_wrong_output_and_a_wrong_command_are_seen(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    text = '```yaml title="x.txt"\nhello\n```\n```console\n$ cat x.txt\nhallo\n$ cat <<E\n> a\n> E\na\n$ false\n```\n'
    now, ran = run_document(text, tmp_path / "a")
    assert [(e.line, e.output, output) for e, output in ran] == [
        (5, "hallo\n", "hello\n"),
        (7, "a\n", "a\n"),
        (11, "", ""),
    ]
    assert now == text.replace("hallo", "hello")
    assert [e.command for e in examples("$ a\n$ b\nc\n", 1)] == ["a", "b"]


def test_the_few_shots_the_tutorial_shows_can_be_used(tmp_path: Path) -> None:
    text = (DOCS / "authoring.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```yaml\n(few_shots:\n.*?)^```$", text, re.MULTILINE | re.DOTALL)
    few_shots = load_constitution(str(write(tmp_path, "mine.yaml", principle("kind"), head=block))).few_shots
    assert few_shots is not None and len(few_shots.revision) == len(few_shots.comparison) == 1
