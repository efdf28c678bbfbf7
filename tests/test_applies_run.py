"""`applies_when` in a run: what does not apply is not drawn, gives no opinion, and everything says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from own_checks import write_module
from recipes import run_again, write_recipe

from constitutional.audit.agreement import probability_agrees
from constitutional.audit.trace import render_trace, trace
from constitutional.backends import Backend, open_backend
from constitutional.errors import ConfigError, GateError
from constitutional.feedback.applies import Applicability
from constitutional.pipeline import RunOutcome
from constitutional.records import Comparison, Judgment, Preference, Revision
from constitutional.runs import StageResult

pytestmark = pytest.mark.slow

KIND, HONEST, SAFE = (f"{name}@1.0.0" for name in ("kind", "honest", "safe"))
YES = 'logprobs: {"Yes": -0.2231435513, "No": -1.6094379124}'
JUDGE = (
    f"""likelihood:
  - {{contains: "meant for this case", anywhere: "User: kind", {YES}}}
  - {{contains: "meant for this case", anywhere: "User: honest", {YES}}}
  - {{contains: "meant for this case", anywhere: "User: safe", {YES}}}
"""
    + """
  - {contains: "a one in it", anywhere: "red 1", logprobs: {"Yes": -0.2231435513, "No": -1.6094379124}}
  - {contains: "a one in it", logprobs: {"Yes": -2.3025850930, "No": -0.3566749439}}
  - {contains: "nobody can tell", logprobs: {"Yes": -30.0, "No": -31.0}}
"""
)
NO_JUDGE = "stages=[revise, helpful, sample]"


def write(folder: Path, **cases: str) -> Path:
    """The small recipe with an `applies_when` for some principles, and a judge that has its mind made up."""
    recipe = write_recipe(folder, prompts=24)
    constitution, model = folder / "constitution.yaml", folder / "model.yaml"
    text = constitution.read_text()
    for name, case in cases.items():
        text = text.replace(f"  - id: {name}\n", f"  - id: {name}\n    applies_when: {case}\n")
    constitution.write_text(text)
    model.write_text(model.read_text().replace("likelihood:\n", JUDGE))
    return recipe


def run(recipe: Path, out: Path, *sets: str) -> RunOutcome:
    return run_again(recipe, out, *sets)


def steps_of(outcome: RunOutcome) -> dict[str, StageResult]:
    return {step.name: step.result for step in outcome.steps}


def test_judging_leaves_out_what_does_not_apply(tmp_path: Path) -> None:
    recipe, every = (
        write(tmp_path / "in", kind="a one in it", honest="nobody can tell"),
        "principles_per_comparison=all",
    )
    result = run(recipe, tmp_path / "run", f"judging.{every}", "gate.fallback=stop")
    steps = steps_of(result)
    pairs = {c.id: c for c in steps["sample"].records(Comparison)}
    judgments = steps["judge"].records(Judgment)
    assert len(judgments) == 6 * len(pairs)
    applying, lock = 0, json.loads((tmp_path / "run" / "lock.json").read_text())
    for judgment in judgments:
        one = "red 1" in pairs[judgment.comparison_id].messages[0].content
        said = json.loads(judgment.raw) if judgment.raw else None
        if judgment.principle == SAFE:
            assert judgment.mode == "logprob" and judgment.p_a is not None and said is None
        elif judgment.principle == HONEST:  # neither applies nor does not
            assert (judgment.mode, judgment.outcome, judgment.p_a, said) == ("applies", "invalid", None, None)
        elif one:
            applying += 1
            assert judgment.mode == "logprob" and judgment.p_a is not None
            assert said["applies"] == {
                "p": pytest.approx(0.8),
                "logprobs": [-0.2231435513, -1.6094379124],
                "mass": pytest.approx(1.0),
                "judge": judgment.judge,
                "template": lock["templates"]["applies"],
            }
        else:
            assert (judgment.mode, judgment.outcome, judgment.p_a) == ("applies", "not_applicable", None)
            assert said["applies"]["p"] == pytest.approx(0.125) and judgment.mass == pytest.approx(0.8)
    assert 0 < applying < 2 * len(pairs)
    for label in steps["label"].records(Preference):
        one = "red 1" in pairs[label.comparison_id].messages[0].content
        assert label.principles == ((KIND, SAFE) if one else (SAFE,))
    gate = steps["gate"].records(Judgment)  # an author's own example is a case of its principle
    assert len(gate) == 24 and {(j.mode, j.raw) for j in gate} == {("logprob", None)}
    for outcome in ("not_applicable", "invalid", "preference"):
        cited = next(j.id for j in judgments if j.outcome == outcome)
        told = render_trace(trace(tmp_path / "run", cited))
        assert "PROBLEM" not in told and outcome in told
    yes = next(j for j in judgments if j.mode == "logprob" and j.raw)
    told = render_trace(trace(tmp_path / "run", yes.id))
    assert "p of applies: 0.8000" in told and f"judge of that: {yes.judge}" in told and "PROBLEM" not in told
    assert f"template: applies of pack {lock['templates']['pack']}" in told
    no = next(j for j in judgments if j.outcome == "not_applicable")
    for judgment in (yes, no):
        assert probability_agrees(judgment) == []
        for old, new in (("-0.", "-1."), ('"p":0.', '"p":0.9')):
            assert judgment.raw is not None and old in judgment.raw
            damaged = judgment.model_copy(update={"raw": judgment.raw.replace(old, new, 1)})
            assert "PROBLEM" in dict(probability_agrees(damaged))
    assert "PROBLEM" in dict(probability_agrees(yes.model_copy(update={"raw": no.raw})))
    usage = sum(j.usage.prompt_tokens for j in judgments if j.mode == "applies" and j.order == "ba")
    assert usage == 0  # asked once, paid once
    assert "not applicable" in (tmp_path / "run" / "report.html").read_text()
    assert {step.reused for step in run(recipe, tmp_path / "run", f"judging.{every}", "gate.fallback=stop").steps} == {
        True
    }


def test_a_comparison_to_which_nothing_applies_abstains(tmp_path: Path) -> None:
    case = "a one in it"
    recipe = write(tmp_path / "in", kind=case, honest=case, safe=case)
    steps = steps_of(run(recipe, tmp_path / "run"))
    pairs = {c.id: c for c in steps["sample"].records(Comparison)}
    abstained = [p for p in steps["label"].records(Preference) if p.p_a is None]
    assert {p.abstained for p in abstained} == {"no principle it was judged under applies"}
    assert {p.comparison_id for p in abstained} == {
        c.id for c in pairs.values() if "red 1" not in c.messages[0].content
    }
    report = (tmp_path / "run" / "report.html").read_text()
    assert f"{len(abstained)} abstained: no principle it was judged under applies." in report


def test_a_check_is_asked_only_where_its_principle_applies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_module(
        tmp_path / "site", "casecheck", "def longer(conversation, response):\n    return len(response) / 9999\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    recipe = write(tmp_path / "in", kind="a one in it")
    constitution = recipe.parent / "constitution.yaml"
    constitution.write_text(
        constitution.read_text().replace("  - id: kind\n", "  - id: kind\n    check: casecheck:longer\n")
    )
    steps = steps_of(run(recipe, tmp_path / "run", "judging.principles_per_comparison=all"))
    pairs = {c.id: c for c in steps["sample"].records(Comparison)}
    mine = [j for j in steps["judge"].records(Judgment) if j.principle == KIND]
    assert {j.mode for j in mine} == {"check", "applies"}
    for judgment in mine:
        pair = pairs[judgment.comparison_id]
        assert (judgment.mode == "check") == ("red 1" in pair.messages[0].content)
        said = json.loads(judgment.raw or "")
        assert said["applies"]["p"] == pytest.approx(0.8 if judgment.mode == "check" else 0.125)
        damaged = judgment.model_copy(update={"raw": (judgment.raw or "").replace('"p":0.', '"p":0.9')})
        assert probability_agrees(judgment) == [] and "PROBLEM" in dict(probability_agrees(damaged))
        assert "PROBLEM" not in render_trace(trace(tmp_path / "run", judgment.id))


def test_revising_draws_only_what_applies(tmp_path: Path) -> None:
    recipe = write(tmp_path / "in", kind="a one in it", honest="nobody can tell")
    result = run(recipe, tmp_path / "run", NO_JUDGE, "revise.rounds=3")
    revise = steps_of(result)["revise"]
    prompts = {p["id"]: p["messages"][0]["content"] for p in read(tmp_path / "run" / "prompts.jsonl")}
    drawn = {True: set[str](), False: set[str]()}
    for revision in revise.records(Revision):
        drawn["red 1" in prompts[revision.prompt_id]] |= {step.principle for step in revision.rounds}
        assert len(revision.rounds) == 3
    assert drawn == {True: {KIND, SAFE}, False: {SAFE}}
    names = [name for name in revise.manifest.outputs if name.startswith("applies-")]
    verdicts = [verdict for name in names for verdict in revise.read(name, Applicability)]
    assert len(names) == 4 and len(verdicts) == 2 * len(revise.records(Revision))
    told = render_trace(trace(tmp_path / "run", revise.records(Revision)[0].id))
    assert "applies: kind@1.0.0" in told and "PROBLEM" not in told
    unread = sum(verdict.applies is None for verdict in verdicts)
    assert unread == len(prompts_of(revise)) and revise.manifest.failures == {"applies_invalid": unread}
    assert f"{unread} times the judge could not be read" in (tmp_path / "run" / "report.html").read_text()


def prompts_of(revise: StageResult) -> set[str]:
    return {revision.prompt_id for revision in revise.records(Revision)}


def test_a_prompt_on_which_the_judge_cannot_be_read_is_told_from_one_to_which_nothing_applies(tmp_path: Path) -> None:
    recipe = write(tmp_path / "in", honest="nobody can tell")
    result = run(recipe, tmp_path / "run", NO_JUDGE, "revise.principles=[honest]")
    revise = steps_of(result)["revise"]
    count = len(revise.records(Revision))
    assert count and revise.manifest.failures == {"applies_invalid": count} and result.failures >= count
    figures = json.loads((tmp_path / "run" / "report.json").read_text())["revision"]
    assert (figures["unrevised"], figures["undecided"]) == (0, count)
    assert f"{count} kept theirs because the judge could not be read" in (tmp_path / "run" / "report.html").read_text()


def test_the_gate_asks_whether_principles_apply_to_their_own_examples(tmp_path: Path) -> None:
    recipe = write(tmp_path / "in", kind="a one in it", safe="a one in it")
    model = recipe.parent / "model.yaml"
    text = model.read_text()
    for example, yes, no in (("safe 0", -9, -0.1), ("safe 1", -30, -31)):
        rule = f'contains: "meant for this case", anywhere: "User: {example}", logprobs: {{"Yes": {yes}, "No": {no}}}'
        text = text.replace("likelihood:\n", f"likelihood:\n  - {{{rule}}}\n")
    model.write_text(text)
    steps = steps_of(run(recipe, tmp_path / "half", "gate.fallback=stop", "stages=[gate]"))
    gate = json.loads((steps["gate"].folder / "gate.json").read_text())
    assert gate["applies"] == [
        {"principle": KIND, "n": 4, "applies": 4, "unread": 0},
        {"principle": SAFE, "n": 4, "applies": 2, "unread": 1},
    ]
    assert gate["passed"] and steps["gate"].manifest.failures == {"applies_invalid": 1}
    assert "2 of 4 (unread 1)" in (tmp_path / "half" / "report.html").read_text()
    assert f"{SAFE} applies: 2 of 4 (unread 1)" in render_trace(trace(tmp_path / "half", steps["gate"].key))
    model.write_text(text.replace("User: safe 0", "User: safe").replace("User: kind", "User: kindly"))
    with pytest.raises(GateError) as caught:
        run(recipe, tmp_path / "less", "gate.fallback=stop", "stages=[gate]")
    assert f"the judge says of 4 of 4 cases of {KIND} that it does not apply" in str(caught.value)
    assert f"3 of 4 cases of {SAFE} that it does not apply, and 1 more answer" in str(caught.value)
    plain = write_recipe(tmp_path / "plain")
    steps = steps_of(run(plain, tmp_path / "none", "stages=[gate]"))
    assert "applies" not in json.loads((steps["gate"].folder / "gate.json").read_text())
    assert set(steps["gate"].manifest.outputs) == {"data.jsonl", "failures.jsonl", "gate.json", "labelled.jsonl"}


def test_roles_of_one_model_share_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def counted(spec: str, **settings: Any) -> Backend:
        opened.append(spec)
        return open_backend(spec, **settings)

    monkeypatch.setattr("constitutional.pipeline.context.open_backend", counted)
    recipe = write(tmp_path / "in", kind="a one in it")
    run(recipe, tmp_path / "run", "stages=[revise]")
    assert len(opened) == 1


def test_human_pairs_without_a_principle_for_all_of_them_stop_before_anything_is_written(tmp_path: Path) -> None:
    case = "a one in it"
    recipe = write(tmp_path / "in", kind=case, honest=case, safe=case)
    with pytest.raises(ConfigError, match=r"gate\.human: there is no principle"):
        run(recipe, tmp_path / "run", "gate.human=pairs.jsonl")
    assert not (tmp_path / "run").exists()


def read(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_prompt_to_which_nothing_applies_keeps_its_answer_and_is_counted(tmp_path: Path) -> None:
    recipe = write(tmp_path / "in", kind="a one in it")
    sets = (NO_JUDGE, "revise.principles=[kind]", "sample.revisions=true")
    result = run(recipe, tmp_path / "run", *sets)
    revisions = steps_of(result)["revise"].records(Revision)
    kept = [r for r in revisions if not r.rounds]
    assert 0 < len(kept) < len(revisions) and all(r.final == r.initial and not r.usable for r in kept)
    assert all(len(r.rounds) == 2 for r in revisions if r.rounds)
    origins = [c.parents[0] for c in steps_of(result)["sample"].records(Comparison) if c.origin == "revision"]
    assert origins and not set(origins) & {r.id for r in kept}
    assert f"{len(kept)} more prompts kept their first answer" in (tmp_path / "run" / "report.html").read_text()
    assert "the answer stays as it was" in render_trace(trace(tmp_path / "run", kept[0].id))
    assert {step.reused for step in run(recipe, tmp_path / "run", *sets).steps} == {True}


def test_without_replacement_the_rounds_end_with_the_principles_that_apply(tmp_path: Path) -> None:
    recipe = write(tmp_path / "in", kind="a one in it", honest="a one in it")
    result = run(recipe, tmp_path / "run", NO_JUDGE, "revise.replacement=false", "revise.rounds=3")
    rounds = [[step.principle for step in r.rounds] for r in steps_of(result)["revise"].records(Revision)]
    assert {len(given) for given in rounds} == {1, 3} and all(len(set(given)) == len(given) for given in rounds)


def test_verdicts_lost_with_a_chunk_are_asked_again_and_end_in_the_same_bytes(tmp_path: Path) -> None:
    recipe = write(tmp_path / "in", kind="a one in it")
    first = steps_of(run(recipe, tmp_path / "run", NO_JUDGE))["revise"]
    before = first.manifest.outputs
    (first.folder / "applies-000001.jsonl").unlink()  # a stage without one of its files is not finished
    again = run(recipe, tmp_path / "run", NO_JUDGE)
    assert [step.reused for step in again.steps] == [False, True, True]
    assert steps_of(again)["revise"].manifest.outputs == before


def test_a_changed_case_recomputes_what_asks_it(tmp_path: Path) -> None:
    recipe = write(tmp_path / "in", kind="a one in it")
    run(recipe, tmp_path / "run")
    path = recipe.parent / "constitution.yaml"
    path.write_text(path.read_text().replace("a one in it", "really a one in it"))
    redone = {step.name for step in run(recipe, tmp_path / "run").steps if not step.reused}
    assert redone == {"revise", "gate", "judge", "label", "evaluate"}


def test_a_judge_that_gives_no_probabilities_cannot_be_asked(tmp_path: Path) -> None:
    recipe = write(tmp_path / "in", kind="a one in it")
    with pytest.raises(ConfigError, match="gives no log-probabilities"):
        run(recipe, tmp_path / "run", NO_JUDGE, "judge=openvino:qwen2.5-coder-1.5b")
