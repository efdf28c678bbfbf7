"""Coverage of prompts by principles, on scripted judges with known verdicts and once on a real model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from embedded_model import require
from typer.testing import CliRunner

from constitutional.cli.app import app
from constitutional.constitution import load_constitution
from constitutional.errors import BackendError, DataError
from constitutional.statistics import wilson
from constitutional.templates import load_pack

HEAD = "id: c\nversion: 1.0.0\ntitle: C\nprinciples:\n"
PRINCIPLE = "  - {{id: {0}, version: 1.0.0, title: T, comparison_request: Which {0}?{1}}}\n"
CONSTITUTION = HEAD + "".join(
    PRINCIPLE.format(name, f", applies_when: questions about {name}") for name in ("illness", "money", "war")
)
ALWAYS = PRINCIPLE.format("always", "")
PROMPTS = ["My arm hurts", "I owe rent", "My arm costs rent", "Hello", "mumble", "mumble arm"]
YES, NO, NOTHING = '{"Yes": -0.1, "No": -3.0}', '{"Yes": -3.0, "No": -0.1}', '{"Yes": -9.0, "No": -9.0}'
JUDGE = f"""\
likelihood:
  - {{contains: about illness, anywhere: arm, logprobs: {YES}}}
  - {{contains: about money, anywhere: rent, logprobs: {YES}}}
  - {{contains: about war, anywhere: mumble, logprobs: {NOTHING}}}
  - {{logprobs: {NO}}}
"""


def call(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def files(tmp_path: Path, constitution: str = CONSTITUTION, judge: str = JUDGE) -> tuple[str | Path, ...]:
    (tmp_path / "c.yaml").write_text(constitution)
    (tmp_path / "judge.yaml").write_text(judge)
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in PROMPTS))
    judge_spec = f"scripted:{tmp_path / 'judge.yaml'}"
    return ("coverage", tmp_path / "c.yaml", "--prompts", tmp_path / "prompts.jsonl", "--judge", judge_spec)


def test_counts_and_gaps_on_both_sides(tmp_path: Path) -> None:
    found = json.loads(call(*files(tmp_path), "--json"))
    rows = {row["principle"]: row for row in found["principles"]}
    assert {ref: (row["applies"]["count"], row["applies"]["n"], row["unusable"]) for ref, row in rows.items()} == {
        "illness@1.0.0": (3, 6, 0),
        "money@1.0.0": (2, 6, 0),
        "war@1.0.0": (0, 6, 2),
    }
    assert rows["illness@1.0.0"]["applies"]["interval"] == wilson(3, 6).model_dump()
    assert found["unexercised"] == ["war@1.0.0"]
    text = {prompt["id"]: prompt["messages"][0]["content"] for prompt in found["prompts"]}
    assert [text[i] for i in found["uncovered"]] == ["Hello"]
    assert [text[i] for i in found["unknown"]] == ["mumble"]  # "mumble arm" has illness
    assert (found["said_yes"]["count"], found["said_yes"]["n"]) == (5, 16)
    constitution = load_constitution(str(tmp_path / "c.yaml"))
    assert len(found["verdicts"]) == 18
    for verdict in found["verdicts"]:
        assert verdict["principle_digest"] == constitution.principle(verdict["principle"]).digest
        assert verdict["template_digest"] == found["template_digest"] == load_pack("chat").digest("applies")
        assert verdict["judge"] == found["judge"] and verdict["prompt_id"] in text


def test_a_principle_without_applies_when_covers_every_prompt_and_is_not_asked(tmp_path: Path) -> None:
    found = json.loads(call(*files(tmp_path, CONSTITUTION + ALWAYS), "--json"))
    assert found["principles"][3]["applies"]["count"] == 6 and found["principles"][3]["applies_when"] is None
    assert (found["uncovered"], found["unknown"], found["unexercised"]) == ([], [], ["war@1.0.0"])
    assert len(found["verdicts"]) == 18
    only = json.loads(call(*files(tmp_path, HEAD + ALWAYS, "no_logprobs: true"), "--json", "--limit", "2"))
    assert only["verdicts"] == [] and only["principles"][0]["applies"]["n"] == 2


def test_the_table_and_the_lists(tmp_path: Path) -> None:
    text = call(*files(tmp_path, CONSTITUTION + ALWAYS), "--display", "none")
    flat = " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 100
    assert "money@1.0.0 2/6 0.33 [0.10, 0.70] 0 questions about money" in flat
    assert "always@1.0.0 6/6 to all (no applies_when)" in flat
    assert "no prompt exercises: war@1.0.0" in flat and "no principle applies to" not in flat
    assert "the judge said yes to 5 of 16 questions it answered readably" in flat and "do not trust" not in flat
    text = " ".join(call(*files(tmp_path), "--display", "none").split())
    assert "no principle applies to 1 of the prompts:" in text and "not known (a verdict could not be read): 1" in text


def test_a_judge_that_always_says_the_same_is_told_of(tmp_path: Path) -> None:
    for verdict in (YES, NO):
        text = call(*files(tmp_path, judge=f"likelihood: [{{logprobs: {verdict}}}]"), "--display", "none")
        assert "a judge that always says the same does not read the case" in text


def test_hostile_prompts_cannot_drive_the_terminal(tmp_path: Path) -> None:
    command = files(tmp_path)
    hostile = "\x1b[2Jred \x9b31m [bold]x[/bold] \u202e " + "long " * 40
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"prompt": hostile}) + "\n")
    text = call(*command, "--display", "none")
    assert "[bold]x[/bold]" in text and not {"\x1b", "\x9b", "\u202e"} & set(text)
    assert json.loads(call(*command, "--json"))["prompts"][0]["messages"][0]["content"] == hostile


def test_what_cannot_be_covered_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="log-probabilities"):
        call(*files(tmp_path, judge="no_logprobs: true"))
    command = files(tmp_path)
    (tmp_path / "prompts.jsonl").write_text("")
    with pytest.raises(DataError, match=r"prompts\.jsonl"):
        call(*command)


@pytest.mark.embedded
def test_on_a_real_model(tmp_path: Path) -> None:
    require()
    command = [*files(tmp_path)[:-1], "embedded:smollm2-135m", "--json", "--display", "none", "--limit", "3"]
    found = json.loads(call(*command))
    assert len(found["verdicts"]) == 9 and {v["outcome"] for v in found["verdicts"]} == {"answered"}
    assert all(verdict["mass"] > 0.1 for verdict in found["verdicts"])
    assert len({verdict["p_applies"] for verdict in found["verdicts"]}) == 9
