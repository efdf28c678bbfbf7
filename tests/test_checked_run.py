"""A run whose constitution holds a principle that is code: what it revises, judges, labels, gates and counts."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from own_checks import SORRY, write_module
from recipes import run_again, write_recipe

from constitutional.audit.evaluation_table import render_evaluation
from constitutional.audit.trace import problems, render_trace, trace
from constitutional.checks import Check, coded_digest
from constitutional.errors import ConstitutionError, GateError
from constitutional.evaluation.answers import EvaluatedAnswer
from constitutional.evaluation.checked import CheckScore
from constitutional.evaluation.evaluate import Evaluation
from constitutional.feedback.checked import compare_scores, judge_by_check
from constitutional.feedback.judge import ORDERS
from constitutional.feedback.label import label, opinions
from constitutional.feedback.revise import revise
from constitutional.principles import Principle
from constitutional.records import Comparison, Failure, Judgment, Preference, Prompt, Revision, Sampling, user
from constitutional.statistics import wilson
from constitutional.templates import load_pack

pytestmark = pytest.mark.slow

CODE = """
  - id: apology
    version: 1.0.0
    title: Apologises
    critique_request: In one or two sentences, say why the last answer is no apology.
    revision_request: Write an apology.
    check: sorrycheck:says_sorry
    examples:
      - {prompt: one, better: sorry, worse: "no"}
      - {prompt: two, better: I am sorry, worse: never}
"""
REF = "apology@1.0.0"


@pytest.fixture
def module(tmp_path, monkeypatch):
    folder = tmp_path / "site"
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    sys.modules.pop("sorrycheck", None)
    yield write_module(folder, "sorrycheck")
    sys.modules.pop("sorrycheck", None)


def with_code(recipe: Path, text: str = CODE, only: bool = False) -> None:
    path = recipe.parent / "constitution.yaml"
    written = path.read_text()
    path.write_text((written.partition("principles:")[0] + "principles:" if only else written) + text)


def run(recipe: Path, out: Path, *sets: str):
    sys.modules.pop("sorrycheck", None)
    return run_again(recipe, out, *sets)


def steps_of(outcome) -> dict:
    return {step.name: step.result for step in outcome.steps}


def expected(text: str) -> float | str | None:
    """What the check says of a text, said again."""
    return None if "Maybe" in text else "error" if "Sure 7" in text else float("sorry" in text)


def test_scores_are_compared():
    assert compare_scores(0.6, 0.5) == ("preference", 1.0) and compare_scores(0.0, 0.1) == ("preference", 0.0)
    assert compare_scores(0.5, 0.5) == ("tie", None)
    assert [compare_scores(*pair) for pair in ((None, 1.0), (0.0, None), (None, None))] == [
        ("not_applicable", None)
    ] * 3


def test_ties_and_what_does_not_apply_are_never_numbers():
    principle = Principle(id="p", version="1.0.0", title="t", check="mine:f")
    texts = {"a": "yes sorry", "b": "sorry"}

    def judged(scores):
        check = Check("mine:f", lambda conversation, response: scores[response], "check:mine 1")
        comparison = Comparison(prompt_id="p", messages=(user("?"),), a=texts["a"], b=texts["b"], origin="sampled")
        keys = {order: f"key {order}" for order in ORDERS}
        return comparison, list(judge_by_check(comparison, principle, check, keys, 0))

    for a, b, outcome, why in (
        (0.5, 0.5, "tie", "the checks it was judged by score both answers alike"),
        (None, 1.0, "not_applicable", "no principle it was judged under applies"),
        (2.0, 1.0, "error", "no principle was judged in both orders"),
    ):
        comparison, found = judged({texts["a"]: a, texts["b"]: b})
        assert {(j.outcome, j.p_a, j.mode) for j in found} == {(outcome, None, "check")} and opinions(found) == {}
        (preference,) = label([comparison], found, principles=[principle])
        assert preference.p_a is None and preference.abstained == why
    comparison, found = judged({texts["a"]: 0.2, texts["b"]: 0.9})
    assert [j.order for j in found] == ["ab", "ba"] and {j.p_a for j in found} == {0.0}
    assert len({j.key for j in found}) == 2 and json.loads(found[0].raw or "") == {"a": 0.2, "b": 0.9}
    (preference,) = label([comparison], found, principles=[principle])
    assert preference.p_a == 0.0 and len(preference.judgment_ids) == 2


def test_a_run_with_code_in_it(tmp_path, module):
    recipe = write_recipe(tmp_path / "in", prompts=30)
    with_code(recipe)
    result = run(recipe, tmp_path / "run", "judging.principles_per_comparison=all", "sample.revisions=true")
    steps = steps_of(result)
    identity = json.loads((tmp_path / "run" / "lock.json").read_text())["checks"][REF]
    assert identity.startswith("check:sorrycheck:says_sorry sha256:")

    revisions, unrevised = steps["revise"].records(Revision), 0
    for revision in revisions:
        answer = revision.initial
        for step in revision.rounds:
            if step.principle == REF:
                said = expected(answer)
                assert step.check_score == said and said != "error"
                flag = {None: ("not_applicable",), 1.0: ("not_needed",)}.get(said)
                if flag:
                    unrevised += 1
                    assert step.flags == flag and step.revision == answer and step.unrevised
                    assert step.critique is None and step.revision_seed is None
                else:
                    assert step.critique and not step.unrevised
            else:
                assert step.check_score is None
            answer = step.revision
        assert revision.final == answer
        assert revision.usable == (bool(revision.revised) and not revision.revised[-1].flags)
    assert unrevised > 3 and any(not r.revised for r in revisions)

    comparisons = {c.id: c for c in steps["sample"].records(Comparison)}
    mine = [j for j in steps["judge"].records(Judgment) if j.principle == REF]
    assert len(mine) == 2 * len(comparisons)
    for judgment in mine:
        pair = comparisons[judgment.comparison_id]
        a, b = expected(pair.a), expected(pair.b)
        outcome = ("error", None) if "error" in (a, b) else compare_scores(a, b)
        assert (judgment.outcome, judgment.p_a) == outcome and judgment.judge == identity
        assert judgment.mode == "check" and judgment.logprobs == () and judgment.mass is None
    assert {j.outcome for j in mine} >= {"preference", "not_applicable", "tie"}
    used = [p for p in steps["label"].records(Preference) if REF in p.principles]
    opinionated = {j.comparison_id for j in mine if j.p_a is not None}
    assert {p.comparison_id for p in used} == opinionated

    answers = {a.id: a for a in steps["answers"].records(EvaluatedAnswer)}
    scores = steps["evaluate"].read("checks.jsonl", CheckScore)
    assert len(scores) == len(answers)
    evaluation = Evaluation.model_validate_json((steps["evaluate"].folder / "evaluation.json").read_bytes())
    assert {row.kind for row in evaluation.checks} == {"red_team", "helpful"}
    for row in evaluation.checks:
        said = [expected(a.text) for a in answers.values() if a.kind == row.kind and a.system == row.system]
        numbers = [value for value in said if isinstance(value, float)]
        assert (row.passed.count, row.passed.n) == (sum(numbers), len(numbers))
        assert (row.not_applicable, row.errors) == (said.count(None), said.count("error"))
        assert row.passed.interval == wilson(row.passed.count, row.passed.n)
    report = (tmp_path / "run" / "report.html").read_text()
    assert "Principles that are code" in report and "sorrycheck:says_sorry" in report
    judging = report[report.index('<section id="principles">') :]
    lines = [line for line in judging[: judging.index("</section>")].splitlines() if '<th scope="row">' in line]
    assert [line for line in lines if "by its check" in line] == [line for line in lines if REF in line] != []
    over_all = json.loads((tmp_path / "run" / "report.json").read_text())["judging"][-1]
    assert over_all["judgments"] == len(steps["judge"].records(Judgment)) - len(mine) > 0

    for cited in (mine[0].id, revisions[0].id, used[0].id, scores[0].answer_id):
        told = render_trace(trace(tmp_path / "run", cited))
        assert "PROBLEM" not in told
        assert identity in told or cited == revisions[0].id
    before = {name: step.key for name, step in steps.items()}
    again = run(recipe, tmp_path / "run", "judging.principles_per_comparison=all", "sample.revisions=true")
    assert {step.reused for step in again.steps} == {True}

    module.write_text(SORRY.replace("Maybe", "Perhaps"))  # another version of the code
    changed = run(recipe, tmp_path / "run", "judging.principles_per_comparison=all", "sample.revisions=true")
    redone = {step.name for step in changed.steps if not step.reused}
    assert redone == {"revise", "sample", "gate", "judge", "label", "evaluate"}
    assert {name for name, step in steps_of(changed).items() if step.key != before[name]} == redone
    told = trace(tmp_path / "run", mine[0].id)  # the ledger keeps what the code of before said
    assert identity in render_trace(told) and all("comparison" in line for line in problems(told))


def test_a_check_that_fails_on_an_item_is_counted_and_the_run_goes_on(tmp_path, module):
    module.write_text('def says_sorry(conversation, response):\n    return {"sorry": 1}.get(response, 3)\n')
    recipe = write_recipe(tmp_path / "in")
    with_code(recipe)
    result = run(recipe, tmp_path / "run", "revise.principles=[apology]")
    steps = steps_of(result)
    assert steps["revise"].records(Revision) == [] and steps["revise"].manifest.failures == {"check_error": 10}
    found = (steps["revise"].folder / "failures.jsonl").read_text().splitlines()
    failures = [Failure.model_validate_json(line) for line in found]
    assert {f.message for f in failures} == {"check sorrycheck:says_sorry: gave 3, not a number in [0, 1] or None"}
    outcomes = {(j.outcome, j.p_a) for j in steps["judge"].records(Judgment) if j.principle == REF}
    assert outcomes == {("error", None)}
    count = len(steps["answers"].records(EvaluatedAnswer))
    assert steps["evaluate"].manifest.failures == {"check_error": count} and result.bad_items == 10 + count
    evaluation = Evaluation.model_validate_json((steps["evaluate"].folder / "evaluation.json").read_bytes())
    assert sum(row.errors for row in evaluation.checks) == count and all(not row.passed.n for row in evaluation.checks)
    table = [line for line in render_evaluation(tmp_path / "run").splitlines() if REF in line]
    assert table and all(f"passes {REF} —, " in line for line in table)
    report = (tmp_path / "run" / "report.html").read_text()
    report = report[report.index("Principles that are code") :]
    assert "n = 0" in report[: report.index("</table>")] and "<svg" not in report[: report.index("</table>")]
    gate = json.loads((steps["gate"].folder / "gate.json").read_text())
    assert gate["labels"] == "provenance" and "check of apology@1.0.0 is right on 0 of its 2" in gate["reasons"][-1]


def test_a_report_without_a_revision_has_no_share_of_nothing(tmp_path, module):
    module.write_text("def says_sorry(conversation, response):\n    return True\n")
    recipe = write_recipe(tmp_path / "in")
    with_code(recipe)
    result = run(recipe, tmp_path / "run", "revise.principles=[apology]", "stages=[revise]")
    assert not any(revision.revised for revision in steps_of(result)["revise"].records(Revision))
    report = result.report.read_text()
    report = report[report.index('<section id="revise">') :]
    report = report[: report.index("</section>")]
    assert "No answer was revised: all 10 prompts kept" in report and "of 0" not in report and "<table" not in report


def test_a_constitution_of_code_alone_judges_without_a_model_and_cannot_revise(tmp_path, module):
    recipe = write_recipe(tmp_path / "in")
    text = CODE.replace("    check:", "    phases: [judge, evaluate]\n    check:")
    with_code(recipe, text, only=True)
    result = run(recipe, tmp_path / "run", "stages=[sample, gate, judge, answers, evaluate]", "gate.fallback=stop")
    steps = steps_of(result)
    assert {j.mode for j in steps["judge"].records(Judgment)} == {"check"}
    gate = json.loads((steps["gate"].folder / "gate.json").read_text())
    assert gate["passed"] and gate["sources"] == [] and gate["principles"][0]["correct"] == 2
    with pytest.raises(ValueError, match="no principle takes part in 'revise'"):
        run(recipe, tmp_path / "other")
    module.write_text("def says_sorry(conversation, response):\n    return 'sorry' not in response\n")
    with pytest.raises(GateError, match=r"the check of apology@1\.0\.0 is right on 0 of its 2 examples"):
        run(recipe, tmp_path / "other", "stages=[sample, gate]", "gate.fallback=stop")


def test_what_cannot_be_opened_stops_before_anything_is_written(tmp_path, module):
    recipe = write_recipe(tmp_path / "in")
    with_code(recipe, CODE.replace("says_sorry", "says_sory"))
    with pytest.raises(ConstitutionError, match=r"principles\.3\.check: .*did you mean 'says_sorry'") as caught:
        run(recipe, tmp_path / "run")
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


class Writer:
    """Answers with "no" first and writes "sorry" when asked for a revision."""

    model = "writer"

    def __init__(self) -> None:
        self.asked = 0

    def room(self, dialogue):
        return 1000

    def generate(self, batch, sampling):
        from constitutional.records import Completion

        self.asked += len(batch)
        texts = [" sorry, I will not" if "apology" in str(dialogue) else "no" for dialogue in batch]
        return [
            Completion(
                text=text, model=self.model, sampling=sampling, finish_reason="stop", prompt_tokens=1,
                completion_tokens=1, seconds=0.0,
            )
            for text in texts
        ]  # fmt: skip


def test_a_revision_that_the_check_passes_ends_the_revising():
    principle = Principle(
        id="apology", version="1.0.0", title="t", revision_request="Write an apology.", check="mine:sorry"
    )
    check = Check("mine:sorry", lambda conversation, response: "sorry" in response, "check:mine 1")
    model, prompt = Writer(), Prompt(messages=(user("Help me."),), kind="red_team", source="t", split="train")
    draw = Sampling(temperature=0.0, max_tokens=20)
    (found,) = revise(
        [prompt], policy=model, critic=model, pack=load_pack("chat"), principles=[principle], policy_sampling=draw,
        critic_sampling=draw, rounds=3, critique=False, seed=0, checks={principle.ref: check},
    )  # fmt: skip
    assert isinstance(found, Revision)
    assert [(step.check_score, step.flags) for step in found.rounds] == [
        (0.0, ()), (1.0, ("not_needed",)), (1.0, ("not_needed",))
    ]  # fmt: skip
    assert found.usable and found.final == "I'm sorry, I will not" and len(found.revised) == 1
    assert {step.principle_digest for step in found.rounds} == {coded_digest(principle, check.identity)}
    assert model.asked == 2  # one answer, one revision
