"""Trials of a constitution on scripted judges whose every answer is known: figures computed by hand."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from embedded_model import require
from own_checks import write_module
from typer.testing import CliRunner

from constitutional.audit.probes import Answered, Asking, answer, examples_of, worded
from constitutional.audit.trial import plan, run_trial
from constitutional.backends import open_backend
from constitutional.checks import coded_digest
from constitutional.cli.app import app
from constitutional.constitution import load_composed, load_constitution
from constitutional.constitution.code import open_checks
from constitutional.errors import BackendError, ConfigError, ConstitutionError, LedgerError
from constitutional.feedback.gate import labelled_examples, measure_gate
from constitutional.feedback.judge import judge, questions
from constitutional.feedback.label import Opinion
from constitutional.ledger import open_ledger, open_ledger_read_only
from constitutional.statistics import wilson
from constitutional.templates import load_pack

ROOT = Path(__file__).parents[1]
PACK = load_pack("chat")
CONSTITUTION = """\
id: two
version: 1.0.0
title: Two that are asked and two that cannot be
principles:
  - id: alpha
    version: 1.0.0
    title: Alpha
    comparison_request: Which is A?
    negated_comparison_request: Which is not A?
    paraphrases: [Is A one?, Is A two?]
    examples:
      - {prompt: plain, better: good a1, worse: bad a1, split: tuning}
      - {prompt: twisted, better: good a2, worse: bad a2, split: tuning}
      - {prompt: murmur, better: good a3, worse: bad a3}
      - {prompt: sided, better: good a4, worse: bad a4}
  - id: beta
    version: 2.0.0
    title: Beta
    comparison_request: Which is B?
    examples:
      - {prompt: first, better: good b1, worse: bad b1}
      - {prompt: second, better: good b2, worse: bad b2}
  - {id: bare, version: 1.0.0, title: Bare, comparison_request: Which is C?}
  - id: silent
    version: 1.0.0
    title: Silent
    critique_request: What is wrong?
    examples: [{prompt: p, better: b, worse: w}]
"""
# p of the better answer under each request: plain, twisted, murmur, sided
JUDGE = """\
likelihood:
  - {contains: "Which is A?", anywhere: twisted, keyword: bad, p: 0.7}            # A: 0.8, 0.3, unread, 0.5 (sided)
  - {contains: "Which is A?", anywhere: murmur, keyword: good, mass: 0.001}
  - {contains: "Which is A?", anywhere: sided, prefer_option: A, p: 0.9}
  - {contains: "Which is A?", keyword: good, p: 0.8}
  - {contains: "Which is not A?", keyword: bad, p: 0.6}                           # not A: 0.4 throughout
  - {contains: "Is A one?", keyword: good, p: 0.9}                                # one: 0.9 throughout
  - {contains: "Is A two?", keyword: bad, p: 0.8}                                 # two: 0.2 throughout
  - {contains: "Which is B?", anywhere: twisted, keyword: bad}                    # B: right but for twisted
  - {contains: "Which is B?", keyword: good}
"""


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    constitution, script = tmp_path / "two.yaml", tmp_path / "judge.yaml"
    constitution.write_text(CONSTITUTION)
    script.write_text(JUDGE)
    return constitution, script


def asking(script: Path, **more: Any) -> Asking:
    return Asking(open_backend(f"scripted:{script}"), PACK, seed=5, **more)


def call(*arguments: str | Path, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.stdout


def test_every_figure_against_hand_computed_values(files: tuple[Path, Path]) -> None:
    constitution, script = files
    trial = run_trial(load_constitution(str(constitution)), asking(script), cross=10)
    alpha, beta = trial.principles
    assert (alpha.principle, beta.principle) == ("alpha@1.0.0", "beta@2.0.0")
    assert (alpha.right.count, alpha.right.n, alpha.unusable) == (1, 4, 1)
    assert alpha.right.interval == wilson(1, 4)
    assert {s: (r.count, r.n) for s, r in alpha.by_split.items()} == {"tuning": (1, 2), "gate": (0, 2)}
    assert (alpha.orders.count, alpha.orders.n) == (2, 3)
    # request 0.8, 0.3, -, 0.5; 1 - negated 0.6 each: only `plain` agrees (a tie agrees with nothing)
    assert alpha.negation is not None and alpha.paraphrases is not None
    assert (alpha.negation.same.count, alpha.negation.same.n, alpha.negation.unusable) == (1, 4, 1)
    assert alpha.negation.mean_gap == pytest.approx((0.2 + 0.3 + 0.1) / 3)
    # one: 0.9 agrees with `plain`, two: 0.2 with `twisted`
    assert (alpha.paraphrases.same.count, alpha.paraphrases.same.n, alpha.paraphrases.unusable) == (2, 8, 2)
    assert alpha.paraphrases.mean_gap == pytest.approx((0.1 + 0.6 + 0.4 + 0.6 + 0.1 + 0.3) / 6)
    assert (beta.right.count, beta.right.n, beta.negation, beta.paraphrases) == (2, 2, None, None)
    assert (trial.overall.count, trial.overall.n, trial.unusable) == (3, 6, 1)
    cells = {(c.principle, c.examples_of): (c.decided.count, c.decided.n, c.unusable) for c in trial.cross}
    assert cells == {
        ("alpha@1.0.0", "beta@2.0.0"): (2, 2, 0),
        ("beta@2.0.0", "alpha@1.0.0"): (3, 4, 0),
        ("bare@1.0.0", "alpha@1.0.0"): (0, 4, 0),  # no rule of the script: a tie
        ("bare@1.0.0", "beta@2.0.0"): (0, 2, 0),
    }
    assert alpha.cross is not None and beta.cross is not None
    assert (alpha.cross.count, alpha.cross.n) == (2, 2) and (beta.cross.count, beta.cross.n) == (3, 4)
    assert {u.principle: u.reason for u in trial.untested} == {
        "bare@1.0.0": "no examples",
        "silent@1.0.0": "no comparison_request",
    }


def test_the_gate_and_the_trial_count_alike(files: tuple[Path, Path]) -> None:
    constitution, script = load_constitution(str(files[0])), files[1]
    labelled = labelled_examples(constitution)
    judged = judge(
        [item.comparison for item in labelled],
        assigned=[[constitution.principle(item.principles[0])] for item in labelled],
        backend=open_backend(f"scripted:{script}"),
        pack=PACK,
        seed=5,
    )
    report = measure_gate(labelled, judged, judge="", template_digest="", min_order_consistency=0, fallback="stop")
    rows = {row.principle: row.by_split["gate"] for row in run_trial(constitution, asking(script), cross=0).principles}
    assert {row.name: (row.correct, row.n, row.interval) for row in report.principles} == {
        ref: (found.count, found.n, found.interval) for ref, found in rows.items()
    }


def test_the_json_leads_from_every_figure_to_principle_template_judge_order_and_seed(files: tuple[Path, Path]) -> None:
    file, script = files
    text = call("test", file, "--judge", f"scripted:{script}", "--json", "--seed", "5", "--cross", "1")
    trial, constitution = json.loads(text), load_constitution(str(file))
    backend = open_backend(f"scripted:{script}")
    assert (trial["judge"], trial["seed"], trial["templates"]) == (backend.model, 5, "chat@1.0.0")
    assert trial["constitution_digest"] == constitution.digest
    comparisons = {e["comparison"]["id"]: e for e in trial["examples"]}
    assert len(comparisons) == 6
    by_wording: dict[str, int] = {}
    by_id = {e.comparison.id: e.comparison for e in examples_of(constitution)}
    for question in trial["questions"]:
        by_wording[question["wording"]] = by_wording.get(question["wording"], 0) + 1
        principle = constitution.principle(question["principle"])
        asked = worded(principle, question["request"])
        expected = questions([by_id[question["comparison_id"]]], [[asked]], pack=PACK, judge_model=backend.model)
        assert question["principle_digest"] == principle.digest
        assert [j["order"] for j in question["judgments"]] == ["ab", "ba"]
        for judgment, wanted in zip(question["judgments"], expected, strict=True):
            assert judgment["key"] == wanted.key and judgment["principle"] == principle.ref
            assert judgment["principle_digest"] == asked.digest and judgment["seed"] == 5
            assert judgment["template_digest"] == trial["template_digest"] == PACK.digest("judge")
            assert judgment["judge"] == backend.model and judgment["comparison_id"] == question["comparison_id"]
    # three principles, each asked on one example of every other one that has examples
    assert by_wording == {"request": 6, "negated": 4, "paraphrase 1": 4, "paraphrase 2": 4, "cross": 4}
    assert trial["principles"][0]["right"] == {"count": 1, "n": 4, "interval": wilson(1, 4).model_dump()}


def test_cross_talk_examples_are_drawn_by_seed_and_are_the_same_for_everyone(files: tuple[Path, Path]) -> None:
    constitution = load_constitution(str(files[0]))
    examples = examples_of(constitution)

    def drawn(seed: int) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for probe in plan(constitution, examples, 2, seed):
            if probe.wording == "cross" and probe.example.owner == "alpha@1.0.0":
                found.setdefault(probe.principle.ref, []).append(probe.example.comparison.id)
        return found

    for seed in range(20):
        asked = drawn(seed)
        assert set(asked) == {"beta@2.0.0", "bare@1.0.0"} and asked["beta@2.0.0"] == asked["bare@1.0.0"]
        assert asked == drawn(seed) and len(set(asked["bare@1.0.0"])) == 2
    assert len({tuple(drawn(seed)["bare@1.0.0"]) for seed in range(20)}) > 1
    assert not [probe for probe in plan(constitution, examples, 0, 0) if probe.wording == "cross"]


def test_an_interrupted_trial_goes_on_from_its_ledger(files: tuple[Path, Path], tmp_path: Path) -> None:
    file, script = files
    constitution = load_constitution(str(file))
    whole = run_trial(constitution, asking(script), cross=3)
    with open_ledger(tmp_path / "ledger.sqlite") as ledger:
        first = asking(script, known=ledger.lookup, keep=ledger.append)
        plain, calls = first.backend.loglikelihood, []

        def breaks(batch: Any, options: Any) -> Any:
            calls.append(len(batch))
            if len(calls) == 2:
                raise BackendError("gone")
            return plain(batch, options)

        first.backend.loglikelihood = breaks  # type: ignore[method-assign]
        with pytest.raises(BackendError, match="gone"):
            run_trial(constitution, first, cross=3)
        assert ledger.count() == calls[0] == 32
        again = run_trial(constitution, first, cross=3)
        assert again == whole
        assert calls[0] + sum(calls[2:]) == ledger.count() == 2 * len(whole.questions)
        first.backend.loglikelihood = None  # type: ignore[method-assign, assignment]
        assert run_trial(constitution, first, cross=3) == whole
    with open_ledger_read_only(tmp_path / "ledger.sqlite") as ledger:
        assert not ledger.verify()
        assert {j.id for j in ledger.judgments()} == {j.id for q in whole.questions for j in q.judgments}


def test_table_overall_figure_and_exit_code(files: tuple[Path, Path], tmp_path: Path) -> None:
    file, script = files
    command = ("test", file, "--judge", f"scripted:{script}", "--display", "none", "--ledger", tmp_path / "l.sqlite")
    text = call(*command, "--min-accuracy", "0.5")
    assert max(map(len, text.splitlines())) <= 100
    (row,) = [" ".join(line.split()) for line in text.splitlines() if "alpha@" in line]
    assert row == "alpha@1.0.0 1/2 0/2 0.25 [0.05, 0.70] 1 0.67 0.25 0.20 0.25 1.00"
    assert "overall accuracy: 0.50 [0.19, 0.81] of 6, all examples of all principles, both splits; 1 unread" in text
    assert "not tested: bare@1.0.0 (no examples)" in text
    call(*command, "--min-accuracy", "0.51", code=1)
    call(*command, "--min-accuracy", "0.51", "--json", code=1)
    assert json.loads(call(*command, "--limit", "1", "--json"))["overall"]["n"] == 3


def test_a_long_table_keeps_every_figure_in_100_columns(files: tuple[Path, Path]) -> None:
    file, script = files
    file.write_text(CONSTITUTION.replace("id: alpha", f"id: {'a-long-name-' * 6}end").replace("id: beta", "id: alpha"))
    text = call("test", file, "--judge", f"scripted:{script}", "--display", "none", "--cross", "9")
    assert max(map(len, text.splitlines())) <= 100 and "\u2026" not in text
    assert " 1/2 0/2 0.25 [0.05, 0.70] 1 0.67 0.25 0.20 0.25 1.00" in " ".join(text.split())
    plain = call("test", "minimal", "--judge", f"scripted:{script}", "--display", "none", "--cross", "0")
    assert not [name for name in ("tuning ", "negated", "gap", "paraphr.", "cross") if name in plain.splitlines()[0]]
    assert "negated" not in plain and "cross:" not in plain


def test_what_cannot_be_tried_is_one_clear_line(files: tuple[Path, Path], tmp_path: Path) -> None:
    file, script = files
    with pytest.raises(BackendError, match="log-probabilities"):
        mute = tmp_path / "mute.yaml"
        mute.write_text("no_logprobs: true")
        call("test", file, "--judge", f"scripted:{mute}")
    with pytest.raises(ConfigError, match=r"no template pack 'chatt' \(did you mean 'chat'"):
        call("test", file, "--judge", f"scripted:{script}", "--templates", "chatt")
    with pytest.raises(ConfigError, match="neither --min-accuracy nor --cross"):
        call("test", file, "--judge", f"scripted:{script}", "--wordings", "paraphrases", "--cross", "1")
    with pytest.raises(LedgerError, match=r"two\.yaml"):
        call("test", file, "--judge", f"scripted:{script}", "--ledger", file)
    file.write_text(CONSTITUTION.split("  - id: alpha")[0] + CONSTITUTION[CONSTITUTION.index("  - {id: bare") :])
    with pytest.raises(ConstitutionError, match=r"^two@1.0.0: no principle has both"):
        call("test", file, "--judge", f"scripted:{script}")


def test_a_ledger_is_held_by_one_process(files: tuple[Path, Path], tmp_path: Path) -> None:
    import filelock

    file, script = files
    with (
        filelock.FileLock(tmp_path / "l.sqlite.lock"),
        pytest.raises(LedgerError, match=r"l\.sqlite: in use by another process"),
    ):
        call("test", file, "--judge", f"scripted:{script}", "--ledger", tmp_path / "l.sqlite")


def test_the_ledger_of_a_run_is_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    file, script = files
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.yaml").write_text("")
    (tmp_path / "link.sqlite").symlink_to(run / "ledger.sqlite")
    for path in (run / "ledger.sqlite", tmp_path / "link.sqlite"):
        with pytest.raises(LedgerError, match=r"sqlite: lies in the folder of a run") as caught:
            call("test", file, "--judge", f"scripted:{script}", "--ledger", path)
        assert "\n" not in str(caught.value)
    assert [path.name for path in run.iterdir()] == ["run.yaml"]


CODE = """
def good(conversation, response):
    if conversation[0].content == "twisted":
        return 0.5
    if "mute" in response:
        return None
    return float("good" in response)
"""


@pytest.fixture
def coded(files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, Path]]:
    """`alpha` has a check beside its request, `silent` a check alone; the judge is wrong under A, if it is asked."""
    constitution, script = files
    write_module(constitution.parent / "site", "trialcheck", CODE)
    monkeypatch.syspath_prepend(str(constitution.parent / "site"))
    text = CONSTITUTION.replace("    title: Alpha\n", "    title: Alpha\n    check: trialcheck:good\n")
    text = text.replace("critique_request: What is wrong?", "check: trialcheck:good")
    constitution.write_text(text.replace("{prompt: p, better: b, worse: w}", "{prompt: p, better: mute, worse: w}"))
    script.write_text(
        'likelihood:\n  - {contains: "Which is A?", keyword: bad}\n  - {contains: "Which is B?", keyword: good}\n'
    )
    yield constitution, script
    sys.modules.pop("trialcheck", None)


def test_a_principle_that_is_code_is_tried_by_its_check_as_a_run_judges_it(coded: tuple[Path, Path]) -> None:
    composed = load_composed(str(coded[0]))
    constitution, checks = composed.constitution, open_checks(composed)
    trial = run_trial(constitution, asking(coded[1], checks=checks), cross=1)
    alpha, beta, silent = trial.principles
    identity = checks[alpha.principle].identity
    assert (alpha.by_check, beta.by_check, silent.by_check) == (identity, None, identity)
    assert (alpha.right.count, alpha.right.n, alpha.unusable) == (3, 4, 1)  # "twisted" is a tie
    assert (silent.right.count, silent.right.n, silent.unusable) == (0, 1, 1)  # it says nothing of "mute"
    assert alpha.negation is None and alpha.paraphrases is None
    assert [(u.principle, u.reason) for u in trial.untested] == [("bare@1.0.0", "no examples")]
    mine = [q for q in trial.questions if q.principle == alpha.principle]
    assert {q.wording for q in mine} == {"request", "cross"} and {q.request for q in mine} == {""}
    digest = coded_digest(constitution.principle("alpha"), identity)
    assert {(j.mode, j.judge, j.principle_digest) for q in mine for j in q.judgments} == {("check", identity, digest)}
    labelled = labelled_examples(constitution, checks=True)
    judged = list(
        judge(
            [item.comparison for item in labelled],
            assigned=[[constitution.principle(item.principles[0])] for item in labelled],
            backend=open_backend(f"scripted:{coded[1]}"),
            pack=PACK,
            seed=5,
            checks=checks,
        )
    )
    assert {j.key for j in judged if j.mode == "check"} <= {j.key for q in trial.questions for j in q.judgments}
    report = measure_gate(
        labelled, judged, judge="", template_digest="", min_order_consistency=0, fallback="stop",
        principles=constitution.principles,
    )  # fmt: skip
    assert {row.name: (row.correct, row.n, row.unusable) for row in report.principles} == {
        "alpha@1.0.0": (2, 2, 0),
        "beta@2.0.0": (2, 2, 0),
        "silent@1.0.0": (0, 1, 1),
    }


def test_rows_of_checks_are_marked_and_code_alone_needs_no_judge(coded: tuple[Path, Path], tmp_path: Path) -> None:
    file, script = coded
    command = ("test", file, "--judge", f"scripted:{script}", "--display", "none")
    text = call(*command)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    at = next(i for i, line in enumerate(lines) if line.startswith("alpha@"))
    assert lines[at].startswith("alpha@1.0.0 1/2 2/2 0.75 [0.30, 0.95] 1 ") and lines[at + 1] == "by its check"
    assert lines.count("by its check") == 2 and "of these 5 examples are judged by checks, not by the judge" in lines
    assert max(map(len, text.splitlines())) <= 100 and "by its check: code judges" in text
    rows = json.loads(call(*command, "--json"))["principles"]
    assert [bool(row["by_check"]) for row in rows] == [True, False, True]
    script.write_text("no_logprobs: true")
    whole = file.read_text()
    file.write_text(whole[: whole.index("  - id: beta")])
    assert json.loads(call(*command, "--json"))["overall"]["count"] == 3


@pytest.mark.parametrize("pack", ["chat", "transcript"])
def test_progress_ends_at_the_number_of_questions(files: tuple[Path, Path], pack: str) -> None:
    constitution = load_constitution(str(files[0]))
    seen: list[tuple[int, int]] = []
    probes = plan(constitution, examples_of(constitution), 1, 0)
    backend = open_backend(f"scripted:{files[1]}")
    answer(probes, Asking(backend, load_pack(pack), progress=lambda done, total: seen.append((done, total))))
    assert seen == [(16, 22), (22, 22)]


@pytest.mark.embedded
def test_on_a_real_model() -> None:
    require()
    command = ("test", ROOT / "constitutions" / "minimal.yaml", "--judge", "embedded:smollm2-135m", "--limit", "1")
    trial = json.loads(call(*command, "--json", "--display", "none"))
    assert trial["judge"].startswith("embedded:smollm2-135m")
    assert (trial["overall"]["n"], trial["unusable"], len(trial["cross"]), len(trial["questions"])) == (3, 0, 6, 9)
    for question in trial["questions"]:
        ab, ba = question["judgments"]
        assert ab["outcome"] == ba["outcome"] == "preference" and ab["logprobs"] != ba["logprobs"]
        for judgment, sign in ((ab, 1), (ba, -1)):
            first, second = judgment["logprobs"]
            assert 0.01 < judgment["mass"] == pytest.approx(math.exp(first) + math.exp(second))
            assert judgment["p_a"] == pytest.approx(1 / (1 + math.exp(sign * (second - first))))
    right = sum((q["judgments"][0]["p_a"] + q["judgments"][1]["p_a"]) / 2 > 0.5 for q in trial["questions"][:3])
    assert trial["overall"]["count"] == right


@pytest.mark.parametrize(("p", "verdict"), [(0.5 + 1e-13, 0), (0.5 - 1e-13, 0), (0.51, 1), (0.49, -1)])
def test_a_tie_within_rounding_is_right_in_no_probe(p: float, verdict: int) -> None:
    opinion = Opinion("alpha@1.0.0", p, ("a", "b"), consistent=False)
    assert Answered(None, (None, None), opinion).verdict == verdict  # type: ignore[arg-type]
