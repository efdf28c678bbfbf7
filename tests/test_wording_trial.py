"""Wordings compared: chosen on tuning examples, confirmed on held-out ones, and never claimed by luck."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest, false_discovery_control
from typer.testing import CliRunner

from constitutional.audit.probes import Asking
from constitutional.audit.wording_candidates import TOGETHER, candidates, contests
from constitutional.audit.wording_table import wording_lines
from constitutional.audit.wording_trial import ALPHA, WordingRow, best, compare_wordings, confirm
from constitutional.backends import open_backend
from constitutional.cli.app import app
from constitutional.constitution import load_constitution
from constitutional.errors import ConfigError, ConstitutionError, DataError
from constitutional.paired_tests import holm, sign_test
from constitutional.statistics import rate, wilson, with_interval
from constitutional.templates import load_pack

PACK = load_pack("chat")


def constitution(tmp_path: Path, tuning: int, gate: int, ids: tuple[str, ...] = ("alpha",), more: str = "") -> Path:
    lines = ["id: c", "version: 1.0.0", "title: C", "principles:"]
    for name in ids:
        lines += [f"  - id: {name}", "    version: 1.0.0", "    title: T", f"    comparison_request: Which {name}?"]
        lines += [f"    paraphrases: [Is {name} one?, Is {name} two?]", "    examples:"]
        lines += [
            f"      - {{prompt: {name} {split} {i} end, better: good {i}, worse: bad {i}, split: {split}}}"
            for split, count in (("tuning", tuning), ("gate", gate))
            for i in range(count)
        ]
    path = tmp_path / "c.yaml"
    path.write_text("\n".join(lines) + "\n" + more)
    return path


def script(tmp_path: Path, *rules: str) -> str:
    path = tmp_path / "judge.yaml"
    path.write_text("likelihood:\n" + "".join(f"  - {{{rule}}}\n" for rule in rules))
    return f"scripted:{path}"


def call(*arguments: str | Path, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.stdout


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (0, 1), (5, 0), (9, 1), (3, 8), (40, 22), (500, 430)])
def test_the_sign_test_is_scipys_binomial_test(gained: int, lost: int) -> None:
    expected = 1.0 if gained + lost == 0 else binomtest(gained, gained + lost, alternative="greater").pvalue
    assert sign_test(gained, lost) == pytest.approx(expected, rel=1e-9)


def test_a_negative_count_is_refused() -> None:
    with pytest.raises(DataError, match="expected counts"):
        sign_test(-1, 2)


def test_holm_by_hand_and_between_its_bounds() -> None:
    assert holm([]) == [] and holm([0.04]) == [0.04]
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9, 0.001, 0.02]) == pytest.approx([1.0, 1.0, 0.004, 0.06])
    rng = np.random.default_rng(0)
    for _ in range(50):
        p = rng.random(6) ** 3
        adjusted = np.array(holm(list(p)))
        assert (adjusted <= np.minimum(1, 6 * p) + 1e-12).all()  # Bonferroni is never the smaller one
        assert (
            adjusted >= false_discovery_control(p, method="bh") - 1e-12
        ).all()  # and Benjamini-Hochberg never larger


def simulate(runs: int, wordings: int, tuning: int, gate: int, contest_count: int, *, heldout: bool) -> float:
    """Share of runs that claim any improvement though all wordings are equally good on every single example.

    Examples differ in difficulty, which makes the wordings' answers alike, as with a real judge.
    """
    rng = np.random.default_rng(7)
    claimed = 0
    for _ in range(runs):
        pairs = []
        for _ in range(contest_count):
            chosen_on = rng.random((wordings, tuning)) < rng.beta(2, 1, tuning)
            rows = [
                WordingRow(number=i, requests={}, right=rate(int(r.sum()), tuning), unusable=0, orders=rate(0, 0))
                for i, r in enumerate(chosen_on)
            ]
            winner = best(rows)
            tested_on = rng.random((wordings, gate)) < rng.beta(2, 1, gate) if heldout else chosen_on
            if winner:
                pairs.append((list(map(bool, tested_on[winner])), list(map(bool, tested_on[0]))))
        claimed += any(found.confirmed for found in confirm(pairs))
    return claimed / runs


@pytest.mark.parametrize(
    ("wordings", "tuning", "gate", "contest_count"), [(2, 32, 64, 1), (7, 32, 64, 1), (7, 12, 40, 6), (20, 16, 400, 1)]
)
def test_equally_good_wordings_are_claimed_better_in_at_most_alpha_of_runs(
    wordings: int, tuning: int, gate: int, contest_count: int
) -> None:
    runs = 1500
    share = simulate(runs, wordings, tuning, gate, contest_count, heldout=True)
    assert 0 < share <= ALPHA + 3 * (ALPHA * (1 - ALPHA) / runs) ** 0.5


def test_the_simulation_catches_a_test_on_the_examples_the_winner_was_chosen_on() -> None:
    assert simulate(400, 20, 64, 64, 1, heldout=False) > 4 * ALPHA


def test_a_real_improvement_is_found() -> None:
    rng = np.random.default_rng(3)
    found = 0
    for _ in range(200):
        better, shipped = rng.random(64) < 0.9, rng.random(64) < 0.6
        found += confirm([(list(map(bool, better)), list(map(bool, shipped)))])[0].confirmed
    assert found / 200 > 0.9


def test_the_winner_has_most_right_answers_then_most_consistent_ones_then_is_the_shipped_one() -> None:
    def rows(*found: tuple[int, int]) -> list[WordingRow]:
        return [
            WordingRow(number=i, requests={}, right=rate(right, 9), unusable=0, orders=rate(orders, 9))
            for i, (right, orders) in enumerate(found)
        ]

    assert best(rows((5, 9), (6, 0), (4, 9))) == 1
    assert best(rows((5, 3), (5, 4), (5, 4))) == 1
    assert best(rows((5, 4), (5, 4))) == 0


def test_a_better_wording_wins_and_is_confirmed_and_every_figure_is_right(tmp_path: Path) -> None:
    # shipped: right on tuning 0 to 3 of 10 and gate 0 to 3; one: always; two: wrong on the tuning example 9
    file = constitution(tmp_path, 10, 10)
    rules = [f'contains: "Which alpha?", anywhere: " {i} end", keyword: bad' for i in range(4, 10)]
    rules += ['contains: "Is alpha two?", anywhere: " 9 end", keyword: bad', "keyword: good"]
    judge = script(tmp_path, *rules)
    loaded = load_constitution(str(file))
    made, left_out = contests(loaded, candidates(loaded, "paraphrases"))
    trial = compare_wordings(loaded, made, Asking(open_backend(judge), PACK, seed=4))
    (contest,) = trial.contests
    assert not left_out and [row.right.count for row in contest.wordings] == [4, 10, 9] and contest.winner == 1
    assert [row.right.interval for row in contest.wordings] == [wilson(k, 10, 1 - 0.05 / 3) for k in (4, 10, 9)]
    held = contest.held_out
    assert held is not None and (held.winner.count, held.shipped.count, held.gained, held.lost) == (10, 4, 6, 0)
    assert held.p == held.p_adjusted == pytest.approx(1 / 64) and held.confirmed
    lines = wording_lines(trial)
    text = " ".join(" ".join(lines).split())
    assert "wording 1 wins on tuning (1.00 of 10) and is confirmed on held-out examples" in text
    assert "(p = 0.016, exact sign test)" in text and "the intervals hold for all 3 at once (98.3 % each)" in text
    assert f"{with_interval(contest.wordings[2].right)} of 10" in text and max(map(len, lines)) <= 100
    # 3 wordings x 10 tuning, winner and shipped x 10 gate, both orders; the loser never sees a gate example
    asked = {
        (q.wording, e.split) for q in trial.questions for e in trial.examples if e.comparison.id == q.comparison_id
    }
    assert len(trial.questions) == 50 and ("wording 2", "gate") not in asked and ("wording 1", "gate") in asked
    assert {j.seed for q in trial.questions for j in q.judgments} == {4}


def test_four_held_out_examples_confirm_nothing_and_the_output_says_so(tmp_path: Path) -> None:
    file = constitution(tmp_path, 4, 4)
    judge = script(tmp_path, 'contains: "Which alpha?", keyword: bad', "keyword: good")
    text = " ".join(call("test", file, "--judge", judge, "--wordings", "paraphrases", "--display", "none").split())
    assert "wording 1 wins on tuning (1.00 of 4) and is not confirmed on held-out examples" in text
    assert "(p = 0.062, exact sign test); fewer than 5 differing examples can confirm nothing" in text


def test_the_shipped_wording_stays_when_nothing_beats_it_and_no_gate_example_is_asked(tmp_path: Path) -> None:
    file = constitution(tmp_path, 4, 4)
    judge = script(tmp_path, 'contains: "Is alpha one?", keyword: bad', "keyword: good")
    trial = json.loads(call("test", file, "--judge", judge, "--wordings", "paraphrases", "--json"))
    (contest,) = trial["contests"]
    assert contest["winner"] == 0 and contest["held_out"] is None and len(trial["questions"]) == 12
    text = call("test", file, "--judge", judge, "--wordings", "paraphrases", "--display", "none")
    assert "the shipped wording wins on tuning (1.00 of 4) and stays" in text


def test_together_and_apart_with_holm_over_all_claims(tmp_path: Path) -> None:
    file = constitution(tmp_path, 3, 6, ("alpha", "beta"))
    judge = script(
        tmp_path, 'contains: "Which", keyword: bad', 'contains: "Is beta one?", keyword: bad', "keyword: good"
    )
    trial = json.loads(call("test", file, "--judge", judge, "--wordings", "paraphrases", "--json"))
    together, alpha, beta = trial["contests"]
    assert [c["name"] for c in trial["contests"]] == [TOGETHER, "alpha@1.0.0", "beta@1.0.0"]
    assert [c["winner"] for c in trial["contests"]] == [2, 1, 2]
    assert [row["right"]["count"] for row in together["wordings"]] == [0, 3, 6]
    # together 12 of 12 differ, apart 6 of 6 each: Holm gives 3 p1, then 2 p2 twice
    assert together["held_out"]["p_adjusted"] == pytest.approx(3 / 2**12)
    assert alpha["held_out"]["p_adjusted"] == beta["held_out"]["p_adjusted"] == pytest.approx(2 / 64)
    assert alpha["held_out"]["p"] == pytest.approx(1 / 64)
    # what two contests need is asked once: 3 wordings x 6 tuning + gate: shipped and two x 12, one x alpha's 6
    assert len(trial["questions"]) == 18 + 24 + 6
    text = " ".join(call("test", file, "--judge", judge, "--wordings", "paraphrases", "--display", "none").split())
    assert "exact sign test, 0.031 as one of 3 such tests)" in text


def test_unreadable_answers_are_not_right_and_are_counted(tmp_path: Path) -> None:
    file = constitution(tmp_path, 4, 6)
    judge = script(tmp_path, 'contains: "Which alpha?", keyword: good, mass: 0.001', "keyword: good")
    trial = json.loads(call("test", file, "--judge", judge, "--wordings", "paraphrases", "--json"))
    (contest,) = trial["contests"]
    assert (contest["wordings"][0]["right"]["count"], contest["wordings"][0]["unusable"]) == (0, 4)
    assert contest["held_out"]["gained"] == 6 and contest["held_out"]["confirmed"]


def test_a_file_of_wordings(tmp_path: Path) -> None:
    file = constitution(tmp_path, 2, 2, ("alpha", "beta"))
    wordings = tmp_path / "w.yaml"
    wordings.write_text("alpha:\n  - Which is the alpha?\nbeta:\n  - Which is the beta?\n  - Which beta now?\n")
    judge = script(tmp_path, "keyword: good")
    trial = json.loads(call("test", file, "--judge", judge, "--wordings", wordings, "--json"))
    assert [c["name"] for c in trial["contests"]] == ["alpha@1.0.0", "beta@1.0.0"]
    assert trial["contests"][0]["wordings"][1]["requests"] == {"alpha@1.0.0": "Which is the alpha?"}
    assert trial["left_out"] == [f"{TOGETHER}: not every principle has equally many wordings"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("alhpa: [x]\n", "w.yaml:1:1: alhpa: c@1.0.0 has no principle 'alhpa' (did you mean 'alpha'?)"),
        ("alpha: x\n", "w.yaml:1:1: alpha: expected a list of wordings"),
        ("alpha: []\n", "w.yaml:1:1: alpha: expected a list of wordings"),
        ("alpha:\n  - ok\n  - '  '\n", "w.yaml:3:5: alpha.1: expected a text"),
        ("alpha:\n  - ok\n  - 3\n", "w.yaml:3:5: alpha.1: expected a text"),
        ("alpha:\n  - Which alpha?\n", "w.yaml:2:5: alpha.0: the same wording twice"),
        ("alpha: [one, one]\n", "w.yaml:1:14: alpha.1: the same wording twice"),
        ("other: [one]\n", "w.yaml:1:1: other: the principle has no comparison_request to compare with"),
        ("- alpha\n", "w.yaml:1:1: expected a mapping of principle ids to lists of wordings"),
        ("alpha: &x [one]\n", "w.yaml:1:8: anchor '&x': anchors are not allowed"),
    ],
)
def test_a_bad_file_of_wordings_is_told_by_place(tmp_path: Path, text: str, message: str) -> None:
    more = "  - {id: other, version: 1.0.0, title: O, critique_request: What is wrong?}\n"
    file, wordings = constitution(tmp_path, 1, 1, more=more), tmp_path / "w.yaml"
    wordings.write_text(text)
    with pytest.raises(ConfigError) as caught:
        call("test", file, "--judge", "scripted:none", "--wordings", wordings)
    assert str(caught.value) == f"{tmp_path}/{message}"


def test_no_paraphrases_and_no_tuning_examples(tmp_path: Path) -> None:
    with pytest.raises(ConstitutionError, match="no principle has paraphrases to try"):
        call("test", "minimal", "--judge", "scripted:none", "--wordings", "paraphrases")
    file = constitution(tmp_path, 0, 4)
    with pytest.raises(
        ConstitutionError, match=r"no wordings to compare: alpha@1.0.0: no tuning examples to choose on"
    ):
        call("test", file, "--judge", "scripted:none", "--wordings", "paraphrases")


def test_no_wording_is_tried_of_a_principle_that_its_check_judges(tmp_path: Path) -> None:
    loaded = load_constitution(str(constitution(tmp_path, 3, 3)))
    alpha = loaded.principles[0].model_copy(update={"check": "constitutional.checks:complete"})
    coded = loaded.model_copy(update={"principles": (alpha, *loaded.principles[1:])})
    with pytest.raises(ConstitutionError, match=r"alpha@1.0.0: judged by its check, no wording of it is asked"):
        contests(coded, candidates(coded, "paraphrases"))
