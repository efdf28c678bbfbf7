"""Every part of a judge's or a check's reward goes down to principle, template, judge and what the judge said."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_applies_run import JUDGE
from test_modes_run import write
from test_pipeline_rl import CHECK, run, told
from tiny_model import save_tiny_model
from typer.testing import CliRunner

from constitutional.audit.agreement import grade_agrees, reward_agrees
from constitutional.audit.current import open_view
from constitutional.audit.index import build_index, record_id
from constitutional.audit.lineage_rewards import part_node
from constitutional.audit.trace import TraceNode, problems, trace
from constitutional.cli.app import app
from constitutional.principles import Constitution
from constitutional.runs import StageResult
from constitutional.training.rows import RewardPart, RewardRow

pytestmark = pytest.mark.slow

KIND, SAFE, WHOLE = (f"{name}@1.0.0" for name in ("kind", "safe", "whole"))
PARTS = "[{kind: judge, weight: 2, principles: [kind]}, {kind: judge, principles: [safe]}, {kind: check}]"
DRAWS = "steps: 1, generations: 2, prompts_per_step: 12, max_tokens: 4"


@pytest.fixture(scope="module")
def rewarded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, StageResult, list[RewardRow]]:
    """A run whose judge grades by two parts; one principle is for one prompt alone."""
    folder = tmp_path_factory.mktemp("graded")
    recipe = write(folder / "in")
    constitution, model = recipe.with_name("constitution.yaml"), recipe.with_name("model.yaml")
    text = constitution.read_text().replace("  - id: safe\n", "  - id: safe\n    applies_when: a one in it\n")
    constitution.write_text(text + CHECK)
    model.write_text(model.read_text().replace("likelihood:\n", JUDGE, 1))
    save_tiny_model(folder / "in" / "policy", context=512)
    own = "ppo: {critic: head, learning_rate: 0.001, epochs: 1}"
    _, stage = run(folder, f"algorithm: ppo, {DRAWS}, rewards: {PARTS}, {own}", "stages=[gate, rl]")
    rows = [row for row in told(stage)[1] if row.completion.strip()]
    return folder / "run", stage, rows


def nodes(node: TraceNode) -> Iterator[TraceNode]:
    yield node
    for child in node.children:
        yield from nodes(child)


def facts(node: TraceNode) -> dict[str, str]:
    return dict(node.facts)


def one_prompt(folder: Path) -> str:
    prompts = [json.loads(line) for line in (folder / "prompts.jsonl").read_text().splitlines()]
    return next(p["id"] for p in prompts if p["messages"][0]["content"] == "Prompt red 1")


def test_a_reward_goes_down_to_principles_template_judge_and_what_it_said(
    rewarded: tuple[Path, StageResult, list[RewardRow]],
) -> None:
    folder, _, rows = rewarded
    constitution = Constitution.model_validate_json((folder / "constitution.json").read_bytes())
    lock = json.loads((folder / "lock.json").read_text())
    asked = one_prompt(folder)
    row = next(row for row in rows if row.prompt_id == asked)
    tree = trace(folder, record_id(row))
    assert problems(tree) == []
    parts = {node.id: node for node in tree.children if node.kind in ("judge", "check")}
    assert list(parts) == [KIND, SAFE, WHOLE]
    for part in row.parts:
        node, principle = parts[part.name], constitution.principle(part.name)
        (cited,) = node.children
        assert cited.id == part.name and facts(cited)["digest"] == lock["principles"][part.name]
        assert node.title == f"{part.score:.4f}" and facts(node)["judge"] == part.by
        if part.name == WHOLE:
            assert facts(cited)["code"] == part.by and part.grade is None
            continue
        grade = part.grade
        assert grade is not None and grade.principle_digest == principle.digest and len(grade.logprobs) == 10
        assert facts(cited)["score_request"] == principle.score_request
        told_facts = facts(node)
        expected = f"score of pack {lock['templates']['pack']}, digest {lock['templates']['score']}"
        assert ("template", expected) in node.facts and grade.template_digest == lock["templates"]["score"]
        assert told_facts["order"].startswith("none") and told_facts["mass"] == f"{grade.mass:.4f}"
        assert told_facts["log-probabilities"] == ", ".join(f"{value:.4f}" for value in grade.logprobs)
        assert ("p of applies" in told_facts) == (part.name == SAFE)
    safe = facts(parts[SAFE])
    assert safe["p of applies"] == "0.8000" and safe["judge of that"] == lock["models"]["judge"]
    printed = CliRunner().invoke(app, ["trace", str(folder), record_id(row)])
    assert printed.exit_code == 0 and "PROBLEM" not in printed.output
    for said in (f"judge {KIND}", "score_request: How kind is the response?", lock["templates"]["score"], "seed: "):
        assert said in printed.output


def test_what_a_principle_does_not_apply_to_is_told_and_adds_nothing(
    rewarded: tuple[Path, StageResult, list[RewardRow]],
) -> None:
    folder, _, rows = rewarded
    others = [row for row in rows if row.prompt_id != one_prompt(folder)]
    assert others
    for row in others:
        silent = next(part for part in row.parts if part.name == SAFE)
        assert silent.silent and silent.grade is not None and silent.grade.applies is not None
        assert silent.grade.applies.p == pytest.approx(0.125) and silent.grade.logprobs == ()
        spoken = [part for part in row.parts if part.name != SAFE]
        assert row.score == pytest.approx(sum(part.weight * part.score for part in spoken if part.score is not None))
    tree = trace(folder, record_id(others[0]))
    node = next(node for node in tree.children if node.id == SAFE)
    assert problems(tree) == [] and node.title == "does not apply" and facts(node)["p of applies"] == "0.1250"
    found = json.loads(CliRunner().invoke(app, ["trace", str(folder), "--principle", SAFE, "--json"]).output)
    assert sorted(found["rewards"]["ids"]) == sorted(
        record_id(row) for row in rows if row.prompt_id == one_prompt(folder)
    )


def test_the_step_names_the_principles_of_every_part_and_its_templates(
    rewarded: tuple[Path, StageResult, list[RewardRow]],
) -> None:
    folder, stage, _ = rewarded
    lock = json.loads((folder / "lock.json").read_text())
    tree = trace(folder, stage.key)
    assert problems(tree) == []
    assert [node.id for node in tree.children if node.kind == "principle"] == [KIND, SAFE]
    templates = [value for name, value in tree.facts if name == "template"]
    assert [value.rsplit(" ", 1)[1] for value in templates] == [
        lock["templates"][name] for name in ("score", "applies")
    ]
    assert facts(tree)["judge"] == lock["models"]["judge"] and facts(tree)["seed"] == "0"


def changed(folder: Path, file: str, old: str, new: str) -> None:
    path = folder / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_contradiction_is_said(rewarded: tuple[Path, StageResult, list[RewardRow]], tmp_path: Path) -> None:
    folder, stage, rows = rewarded
    row = record_id(rows[0])
    lock = json.loads((folder / "lock.json").read_text())
    copy = shutil.copytree(folder, tmp_path / "principle")
    for path in (copy / "constitution.json", *copy.glob("constitutions/*.json")):
        path.write_text(path.read_text().replace("How kind is the response?", "How rude is the response?"))
    found = problems(trace(copy, row))
    assert any(line.startswith(f"principle {KIND}: recorded with digest") for line in found)
    assert any("the step used another score_request" in line for line in problems(trace(copy, stage.key)))
    copy = shutil.copytree(folder, tmp_path / "template")
    changed(copy, "lock.json", lock["templates"]["score"], "0" * 16)
    assert any("is not among those the run locked" in line for line in problems(trace(copy, row)))
    copy = shutil.copytree(folder, tmp_path / "judge")
    changed(copy, "lock.json", lock["models"]["judge"], "another")
    assert any(line.startswith(f"judge {KIND}: the run locked another") for line in problems(trace(copy, row)))


def test_scores_are_made_again_from_what_the_judge_said(
    rewarded: tuple[Path, StageResult, list[RewardRow]],
) -> None:
    folder, _, rows = rewarded
    row = next(row for row in rows if row.prompt_id == one_prompt(folder))
    kind, safe, _ = row.parts
    assert reward_agrees(row) == [] == grade_agrees(kind) == grade_agrees(safe)
    assert row.score is not None and kind.score is not None and safe.grade is not None
    assert reward_agrees(row.model_copy(update={"score": row.score + 0.01}))
    assert reward_agrees(row.model_copy(update={"score": None}))
    assert grade_agrees(kind.model_copy(update={"score": kind.score + 0.01}))
    said = safe.grade.applies
    assert said is not None
    for wrong in ({"p": 0.4}, {"p": 0.7}):
        other = safe.grade.model_copy(update={"applies": said.model_copy(update=wrong)})
        assert grade_agrees(safe.model_copy(update={"grade": other}))
    silent = safe.model_copy(update={"score": None})  # though the judge said that it applies
    assert grade_agrees(silent)


def test_a_row_written_before_grades_were_kept_is_read_and_traced(
    rewarded: tuple[Path, StageResult, list[RewardRow]],
) -> None:
    folder, _, rows = rewarded
    new = rows[0].parts[0]
    fields = {name: value for name, value in json.loads(new.to_json()).items() if name != "grade"}
    old = RewardPart.model_validate(fields)
    assert json.loads(old.to_json()) == fields and list(fields) == ["by", "error", "kind", "name", "score", "weight"]
    with open_view(folder) as view:
        node = part_node(build_index(view), old)
    assert problems(node) == [] and node.children[0].id == KIND
    assert facts(node)["template, grades"].startswith("not kept")
