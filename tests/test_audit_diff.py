"""What a new wording changes, against the same comparisons counted by hand from the two ledgers."""

from dataclasses import replace
from pathlib import Path
from statistics import mean

import pytest
from fake_models import FakeModel
from fake_run import CONSTITUTION, PACK, make_run
from recipes import write_recipe
from typer.testing import CliRunner

from constitutional.audit.current import open_view
from constitutional.audit.measures.change_plan import Plan, judge_anew, plan
from constitutional.audit.measures.change_records import VersionDiff
from constitutional.audit.measures.changes import compare_versions
from constitutional.cli.app import app
from constitutional.config import load_recipe
from constitutional.errors import ConfigError, RunError
from constitutional.feedback.label import label, opinions
from constitutional.ledger import Ledger, open_ledger
from constitutional.pipeline import run_recipe
from constitutional.principles import Constitution
from constitutional.records import Comparison, Judgment

JUDGE = FakeModel("feedback-model")
OLD = CONSTITUTION.principles[0]
NEW = OLD.model_copy(update={"version": "1.1.0", "comparison_request": "Which response would you rather read?"})
CHANGED = CONSTITUTION.model_copy(update={"version": "1.1.0", "principles": (NEW, *CONSTITUTION.principles[1:])})


def planned(run: Path, ledger: Ledger, new: Constitution = CHANGED, judge: str = JUDGE.model) -> Plan:
    return plan(open_view(run), new, pack=PACK, checks={}, judge_model=judge, known=ledger.lookup)


def done(run: Path, path: Path, new: Constitution = CHANGED) -> tuple[VersionDiff, list[Judgment]]:
    with open_ledger(path) as ledger:
        made = planned(run, ledger, new)
        judge_anew(made, JUDGE, ledger, lambda *_: None)
        return compare_versions(made, ledger, resamples=200), list(ledger.judgments())


def side(p: float) -> int:
    return (p > 0.5) - (p < 0.5)


def test_only_the_changed_principle_is_asked_and_every_figure_is_that_of_a_count_by_hand(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", until="label")
    before = {p.relative_to(run): p.read_bytes() for p in run.rglob("*") if p.is_file() and ".sqlite" not in p.name}
    with open_view(run) as view:
        old, comparisons = view.rows("judge", "data.jsonl", Judgment), view.rows("sample", "data.jsonl", Comparison)
    found, anew = done(run, tmp_path / "d.sqlite")
    assert {
        p.relative_to(run): p.read_bytes() for p in run.rglob("*") if p.is_file() and ".sqlite" not in p.name
    } == before
    assert {j.principle for j in anew} == {NEW.ref}
    mine = [j for j in old if j.principle == OLD.ref]
    assert found.cost.judgments == found.cost.to_ask == len(anew) == len(mine)
    assert found.cost.tokens == sum(j.usage.prompt_tokens for j in mine)

    was = {c: o[0] for c, o in opinions(mine).items()}
    now = {c: o[0] for c, o in opinions(anew).items()}
    both = [(was[c], now[c]) for c in was if c in now]
    sided = [(side(o.p_a), side(n.p_a)) for o, n in both if side(o.p_a) and side(n.p_a)]
    (row,) = found.principles
    assert (row.old, row.new, row.fields) == (OLD.ref, NEW.ref, ("comparison_request",))
    for estimate, values in (
        (row.flips, [s != t for s, t in sided]),
        (row.shift, [n.p_a - o.p_a for o, n in both]),
        (row.decisiveness, [2 * abs(n.p_a - 0.5) - 2 * abs(o.p_a - 0.5) for o, n in both]),
        (row.order_consistency, [n.consistent - o.consistent for o, n in both]),
    ):
        assert (estimate.value, estimate.n) == (pytest.approx(mean(values)), len(values))
        assert estimate.interval is not None and estimate.interval.low <= estimate.value <= estimate.interval.high
    others = {
        p.comparison_id: p.p_a
        for p in label(comparisons, [j for j in old if j.principle != OLD.ref], principles=CONSTITUTION.principles)
    }
    known = [c for c in {j.comparison_id for j in mine} if others[c] is not None and side(others[c])]
    strength = [
        side(others[c]) * (side(now[c].p_a if c in now else 0.5) - side(was[c].p_a if c in was else 0.5)) for c in known
    ]
    assert (row.strength.value, row.strength.n) == (pytest.approx(mean(strength)), len(known))

    first = {
        p.comparison_id: p for p in label(comparisons, old, principles=CONSTITUTION.principles) if p.p_a is not None
    }
    kept = [j for j in old if j.principle != OLD.ref]
    after = {p.comparison_id: p for p in label(comparisons, [*kept, *anew], principles=CHANGED.principles)}
    flips = [after[c].a_chosen != p.a_chosen for c, p in first.items()]
    assert any(flips) and (found.labels.flips.value, found.labels.flips.n) == (pytest.approx(mean(flips)), len(flips))
    assert found.labels.mean_shift.value == pytest.approx(mean(abs(after[c].p_a - p.p_a) for c, p in first.items()))
    assert found.labels.stored == found.labels.stored_same > 0


def test_the_same_answers_under_a_new_version_change_nothing(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", until="label")
    same = CONSTITUTION.model_copy(
        update={"principles": (OLD.model_copy(update={"version": "1.0.1"}), *CONSTITUTION.principles[1:])}
    )
    found, _ = done(run, tmp_path / "d.sqlite", same)
    (row,) = found.principles
    assert row.fields == () and row.flips.value == row.shift.value == row.strength.value == 0.0
    assert found.labels.flips.value == 0.0 and found.labels.gained == 0


def test_an_interrupted_call_asks_only_what_is_missing(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", until="judge")
    whole, anew = done(run, tmp_path / "whole.sqlite")
    with open_ledger(tmp_path / "d.sqlite") as ledger:
        made = planned(run, ledger)
        judge_anew(
            replace(made, comparisons=made.comparisons[:8], assigned=made.assigned[:8]), JUDGE, ledger, lambda *_: None
        )
        part = compare_versions(made, ledger, resamples=5)
        assert part.missing == len(anew) - 16 and part.principles[0].comparisons == 8
        again = planned(run, ledger)
        assert (again.cost.stored, again.cost.to_ask) == (16, len(anew) - 16)
        judge_anew(again, JUDGE, ledger, lambda *_: None)
        assert compare_versions(again, ledger, resamples=200).principles == whole.principles
        assert planned(run, ledger).cost.to_ask == 0


def test_what_cannot_be_compared_is_refused_in_one_line(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", until="judge")
    early = make_run(tmp_path / "early", until="sample")
    with open_ledger(tmp_path / "d.sqlite") as ledger:
        for arguments, error, message in (
            ((run, ledger, CONSTITUTION), ConfigError, "no principle that .* was judged under has changed"),
            ((run, ledger, CHANGED, "other-model"), RunError, "judged by feedback-model, not by other-model"),
            ((early, ledger), RunError, "'judge' is not finished"),
        ):
            with pytest.raises(error, match=message) as caught:
                planned(*arguments)
            assert "\n" not in str(caught.value)


def test_the_command_shows_the_cost_first_and_asks_nothing_unless_told(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "recipe")
    run = tmp_path / "run"
    run_recipe(load_recipe(recipe), recipe, run, until="label")
    new = tmp_path / "new.yaml"
    text = (tmp_path / "recipe" / "constitution.yaml").read_text()
    new.write_text(text.replace("Which response is more kind?", "Which response is kinder?"))
    judge = ["--judge", f"scripted:{tmp_path / 'recipe' / 'model.yaml'}", "--display", "none"]
    arguments = ["audit", "diff", "--constitution", str(new), "--run", str(run), *judge, "--resamples", "20"]
    runner = CliRunner()
    estimate = runner.invoke(app, [*arguments, "--estimate"])
    assert estimate.exit_code == 0, estimate.output
    assert "to ask, about" in estimate.output
    refused = runner.invoke(app, arguments)
    assert isinstance(refused.exception, ConfigError) and "--yes" in str(refused.exception)
    with open_ledger(tmp_path / "run.diff.sqlite") as ledger:
        assert ledger.count() == 0
    shown = runner.invoke(app, [*arguments, "--yes"])
    assert shown.exit_code == 0, shown.output
    assert "answers that flip" in shown.stdout and max(map(len, shown.stdout.splitlines())) <= 100
    again = runner.invoke(app, [*arguments, "--json"])
    assert VersionDiff.model_validate_json(again.stdout).cost.to_ask == 0
