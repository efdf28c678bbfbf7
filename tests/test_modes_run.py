"""Runs whose judge is asked in another mode than the first: gate, judge, label and trace, and what a recipe may say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from recipes import write_recipe

from constitutional.audit.trace import render_trace, trace
from constitutional.config import load_recipe
from constitutional.errors import ConfigError
from constitutional.feedback.gate import GateReport
from constitutional.feedback.judging.panel import by_judge, judge_agreement
from constitutional.ledger import open_ledger_read_only
from constitutional.pipeline import run_recipe
from constitutional.records import Judgment, Preference
from constitutional.runs import StageResult

pytestmark = pytest.mark.slow

STEPS = "stages=[sample, gate, revise, judge, label]"
DRAW = "judging.sampling={temperature: 1.0, max_tokens: 40}"
REPLIES = """
  - {contains: "step by step", reply: "kind"}
  - {contains: "Compare the two responses", reply: ["The polite one {n}.", "I think {n}."]}
  - {contains: "letter A or B only", reply: ["A", "A", "B", "no idea"]}
"""
GRADES = ", ".join(f'"{i}": {-1.0 - i}' for i in range(11))
BETTER = ", ".join(f'"{i}": {-12.0 + i}' for i in range(11))


def write(folder: Path, *, logprobs: bool = True) -> Path:
    """The small recipe with a judge that answers in every mode; sorry is always better."""
    recipe = write_recipe(folder, prompts=9)
    model, constitution = folder / "model.yaml", folder / "constitution.yaml"
    text = model.read_text().replace("rules:\n", "rules:" + REPLIES, 1)
    graded = f"""likelihood:
  - {{contains: "Response: sorry", logprobs: {{{BETTER}}}}}
  - {{contains: "whole number", logprobs: {{{GRADES}}}}}
"""
    model.write_text(text.replace("likelihood:\n", graded) + ("" if logprobs else "no_logprobs: true\n"))
    lines = constitution.read_text().splitlines()
    for name in ("kind", "honest", "safe"):
        at = lines.index(f"    comparison_request: Which response is more {name}?")
        lines.insert(at, f"    score_request: How {name} is the response?")
    constitution.write_text("\n".join(lines) + "\n")
    return recipe


def run(recipe: Path, out: Path, *sets: str) -> dict[str, StageResult]:
    outcome = run_recipe(load_recipe(recipe, [STEPS, *sets]), recipe, out)
    return {step.name: step.result for step in outcome.steps}


def gate_of(steps: dict[str, StageResult]) -> GateReport:
    return GateReport.model_validate_json((steps["gate"].folder / "gate.json").read_bytes())


@pytest.mark.parametrize("mode", ["cot", "vote", "score"])
def test_the_gate_the_judge_and_the_labels_follow_the_mode(tmp_path: Path, mode: str) -> None:
    recipe = write(tmp_path / "in", logprobs=mode != "vote")
    sets = [f"judging.mode={mode}", *([DRAW, "judging.samples=3"] if mode != "score" else [])]
    steps = run(recipe, tmp_path / "run", *sets)
    for step in ("gate", "judge"):
        judgments = steps[step].records(Judgment)
        assert judgments and {j.mode for j in judgments} == {mode}
        assert {len(j.samples) for j in judgments} == ({0} if mode == "score" else {3})
    lock = json.loads((tmp_path / "run" / "lock.json").read_text())
    name = {"cot": "judge_cot", "vote": "vote", "score": "score"}[mode]
    report = gate_of(steps)
    assert report.template_digest == lock["templates"][name] == steps["judge"].records(Judgment)[0].template_digest
    if mode == "vote":  # it knows letters only: a judge by position, which the gate must not let pass
        assert not report.passed
    else:
        assert report.passed and report.sources[0].n == report.sources[0].correct == 12
        labels = [p.p_a for p in steps["label"].records(Preference) if p.p_a is not None]
        assert labels
        if mode == "cot":  # 0.85 clamped, or its mean with ties
            assert all(0.4 <= p <= 0.6 for p in labels)
    for judgment in steps["judge"].records(Judgment)[:2]:
        told = render_trace(trace(tmp_path / "run", judgment.id))
        assert "PROBLEM" not in told and f"mode: {mode}" in told and f"template: {name} of" in told
        assert ("sample 3" in told) == (mode != "score")
    for preference in steps["label"].records(Preference)[:2]:
        assert "PROBLEM" not in render_trace(trace(tmp_path / "run", preference.id))
    before = {name: result.manifest.built for name, result in steps.items()}
    assert {name: r.manifest.built for name, r in run(recipe, tmp_path / "run", *sets).items()} == before


def test_further_judges_answer_the_same_comparisons_and_leave_labels_alone(tmp_path: Path) -> None:
    recipe = write(tmp_path / "in")
    alone = run(recipe, tmp_path / "one")
    second = tmp_path / "in" / "second.yaml"
    second.write_text('likelihood: [{keyword: "Sure", p: 0.7}]\n')
    judges = [
        {"name": "grader", "model": "self", "mode": "score"},
        {"name": "other", "model": f"scripted:{second}"},
    ]
    sets = f"judging.judges={json.dumps(judges)}"
    both = run(recipe, tmp_path / "two", sets)
    assert both["judge"].key == alone["judge"].key and both["label"].key == alone["label"].key
    assert (both["label"].folder / "data.jsonl").read_bytes() == (alone["label"].folder / "data.jsonl").read_bytes()
    asked = {(j.comparison_id, j.principle, j.order) for j in both["judge"].records(Judgment)}
    with open_ledger_read_only(tmp_path / "two" / "ledger.sqlite") as ledger:
        found = by_judge(ledger.judgments({c for c, _, _ in asked}))
    assert len(found) == 3
    for judgments in found.values():
        assert {(j.comparison_id, j.principle, j.order) for j in judgments} == asked
        for judgment in judgments[:1]:
            assert "PROBLEM" not in render_trace(trace(tmp_path / "two", judgment.id))
    rows = judge_agreement(found)
    assert len(rows) == 3 * 3 and sum(row.asked for row in rows) == 3 * len(asked) / 2
    swapped = run(recipe, tmp_path / "three", sets, "judging.labels=other")
    assert {j.judge for j in swapped["judge"].records(Judgment)} == {gate_of(swapped).judge}
    assert gate_of(swapped).judge != gate_of(both).judge


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (["judging.samples=3"], "samples: only the modes 'cot' and 'vote' draw, this one is 'logprob'"),
        (["judging.mode=score", DRAW], "sampling: only the modes 'cot' and 'vote' draw, this one is 'score'"),
        (["judging.mode=vot"], "judging.mode"),
        (["judging.mode=score", "judging.shot_principles=sampled"], "mode 'score' shows no few-shots"),
        (["judging.mode=model"], "mode 'model' needs a judge model:FOLDER"),
        (["judge=model:nowhere", "judging.mode=cot"], "a preference model is asked in mode 'model' only"),
        (["judging.mode=vote"], "judging: 5 samples at temperature 0 are one sample 5 times"),
        (["judging.labels=othr", "judging.judges=[{name: other, model: self}]"], "'othr' (did you mean 'other'?)"),
        (["judging.judges=[{name: judge, model: self}]"], "two judges are called 'judge'"),
        (["label.clamp=[0.6, 0.7]"], "clamp: expected [least, greatest] with one half between them"),
        (["templates=PACK", "judging.mode=score"], "asks with the template 'score', which pack old@1.0.0 lacks"),
        (["judging.mode=score", "constitution=minimal"], "none whose `phases` name it has a score_request"),
    ],
)
def test_what_a_mode_can_not_use_is_refused_in_one_line(tmp_path: Path, sets: list[str], said: str) -> None:
    recipe = write(tmp_path / "in")
    pack = tmp_path / "in" / "old"
    pack.mkdir()
    for file in (Path(__file__).parent.parent / "prompts" / "chat").iterdir():
        if file.stem not in ("judge_cot", "vote", "score"):
            (pack / file.name).write_text(file.read_text().replace("id: chat", "id: old"))
    with pytest.raises(ConfigError) as caught:
        run(recipe, tmp_path / "run", *[text.replace("PACK", str(pack)) for text in sets])
    assert said in str(caught.value) and len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_the_written_out_recipe_says_how_judges_are_asked(tmp_path: Path) -> None:
    recipe = write(tmp_path / "in")
    run(recipe, tmp_path / "run", "judging.mode=cot", DRAW, "judging.shot_principles=sampled")
    resolved = yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())
    assert resolved["judging"]["mode"] == "cot" and resolved["label"]["clamp"] == [0.4, 0.6]
