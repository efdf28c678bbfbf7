"""Contested cells against a plain count over judgments; the audit's part of report.json; `audit --html`."""

import json
from pathlib import Path

import pytest
from fake_models import make_prompts
from fake_run import CONSTITUTION, RECIPE, make_run
from test_audit import judgment, random_ledger, write_run
from test_report import Page
from typer.testing import CliRunner

from constitutional.audit.audit_view import audit_values, show_audit
from constitutional.audit.measures.contested import MOST, WIDEST, contested
from constitutional.audit.measures.corpus import load_corpus
from constitutional.audit.measures.table import make_table
from constitutional.audit.pages import AUDIT_SECTIONS, drawn
from constitutional.audit.report import write_report
from constitutional.cli.app import app


@pytest.mark.parametrize("seed", range(3))
def test_cells_equal_a_plain_count(tmp_path: Path, seed: int) -> None:
    found, judgments = random_ledger(seed)
    shown = show_audit([write_run(tmp_path / "run", found, judgments)], resamples=10)
    p = {(j.principle, j.comparison_id, j.order): j.p_a for j in judgments}
    refs = shown.audit.panels[0].principles
    cells = {(cell.one, cell.other): cell for cell in shown.cells}
    assert len(cells) == len(refs) * (len(refs) + 1) // 2
    for (one, other), cell in cells.items():
        both = []
        for comparison in found:
            values = [p.get((ref, comparison.id, order)) for ref in (one, other) for order in ("ab", "ba")]
            if None not in values:
                a, b, c, d = (float(v) for v in values if v is not None)
                both.append((a, b, comparison.id) if one == other else ((a + b) / 2, (c + d) / 2, comparison.id))
        sided = [row for row in both if row[0] != 0.5 and row[1] != 0.5]
        differ = [row for row in sided if (row[0] > 0.5) != (row[1] > 0.5)]
        assert (cell.differ.count, cell.differ.n) == (len(differ), len(sided))
        worst = sorted(differ, key=lambda row: (-abs(row[0] - row[1]), row[2]))[:MOST]
        assert [(row.p, row.against, row.comparison_id) for row in cell.rows] == worst
        assert [row.gap for row in cell.rows] == [abs(x - y) for x, y, _ in worst]
        pair = next((x for x in shown.audit.panels[0].pairs if {x.one, x.other} == {one, other}), None)
        assert one == other or (pair is not None and pair.conflict.value == pytest.approx(len(differ) / len(sided)))
    named = {row.comparison_id for cell in shown.cells for row in cell.rows}
    assert shown.comparisons == {c.id: c for c in found if c.id in named}


def test_many_equal_gaps_and_none_at_all(tmp_path: Path) -> None:
    found, _ = random_ledger(0)
    ref = CONSTITUTION.principles[0].ref
    same = [judgment(c, ref, order, 0.9 if order == "ab" else 0.1) for c in found for order in ("ab", "ba")]
    (cell,) = show_audit([write_run(tmp_path / "position", found, same)], resamples=10).cells
    assert cell.differ.count == cell.differ.n == len(found)
    assert [row.comparison_id for row in cell.rows] == sorted(c.id for c in found)[:MOST]
    for name, tie in (("ties", 0.5), ("rounded", 0.5 + 1e-13)):
        ties = [judgment(c, ref, order, tie) for c in found for order in ("ab", "ba")]
        shown = show_audit([write_run(tmp_path / name, found, ties)], resamples=10)
        assert shown.cells == () and shown.comparisons == {}
    assert Page(drawn("audit.html.j2", audit_values(shown), AUDIT_SECTIONS)).wrong == []


def test_many_principles_are_cut_to_those_that_conflict_most(tmp_path: Path) -> None:
    found = random_ledger(1)[0][:20]
    judgments = [
        judgment(c, f"p{k}@1.0.0", o, 0.9 if (k % 2) == (o == "ab") else 0.2, principle_digest=f"{k:016x}")
        for c in found
        for k in range(WIDEST + 3)
        for o in ("ab", "ba")
    ]
    run = write_run(tmp_path / "run", found, judgments)
    shown = show_audit([run], resamples=10)
    assert len(shown.audit.panels[0].principles) == WIDEST + 3
    assert len({cell.one for cell in shown.cells}) <= WIDEST
    page = drawn("audit.html.j2", audit_values(shown), AUDIT_SECTIONS)
    assert f"The {WIDEST} of {WIDEST + 3} principles in the largest conflicts" in page


def test_two_judges_are_shown_apart(tmp_path: Path) -> None:
    found, judgments = random_ledger(2, ("judge:one", "judge:two"))
    shown = show_audit([write_run(tmp_path / "run", found, judgments)], resamples=10)
    assert {cell.panel for cell in shown.cells} == {0, 1}
    table = make_table(load_corpus([tmp_path / "run"]))
    assert contested(table, shown.audit) == shown.cells
    parsed = Page(drawn("audit.html.j2", audit_values(shown), AUDIT_SECTIONS))
    assert parsed.wrong == [] and parsed.open == []
    text = " ".join(parsed.text)
    assert "judge:one (logprob)" in text and "judge:two (logprob)" in text and "Cohen's kappa" in text
    ids = [value for _, name, value in parsed.attributes if name == "id"]
    links = {value for _, name, value in parsed.attributes if name == "href"}
    assert len(ids) == len(set(ids)) and {f"#{i}" for i in ids} >= links


def test_the_report_has_the_audit_and_its_json(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    page = write_report(run, RECIPE, CONSTITUTION, make_prompts()).read_text("utf-8")
    figures = json.loads((run / "report.json").read_text())
    shown = show_audit([run])
    assert figures["audit"]["runs"][0]["name"] == "fake" != shown.audit.runs[0].name
    assert [row["principle"] for row in figures["audit"]["principles"]] == [r.principle for r in shown.audit.principles]
    assert [cell["rows"] for cell in figures["contested"]] == [c.model_dump(mode="json")["rows"] for c in shown.cells]
    for row in shown.audit.principles:
        assert row.labels is not None
        for rate in (row.labels.accuracy, row.labels.right_of_all):
            low, high = 100 * rate.interval.low, 100 * rate.interval.high
            assert f"<small>{low:.1f}–{high:.1f}\u202f% · {rate.count} of {rate.n}</small>" in page
        same = row.figures.order_consistency
        assert same.interval is not None and same.value is not None
        assert f"{100 * same.value:.1f}\u202f%<small>{100 * same.interval.low:.1f}–" in page
        assert f"n = {same.n}</small>" in page
    before = (run / "report.json").read_bytes()
    write_report(run, RECIPE, CONSTITUTION, make_prompts())
    assert (run / "report.json").read_bytes() == before


def test_audit_html(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", until="judge")
    file = tmp_path / "audit.html"
    done = CliRunner().invoke(app, ["audit", str(run), "--html", str(file), "--resamples", "20"])
    assert done.exit_code == 0 and f"wrote {file}" in done.stderr
    parsed = Page(file.read_text("utf-8"))
    assert parsed.wrong == [] and parsed.open == []
    missing = CliRunner().invoke(app, ["audit", str(run), "--html", str(tmp_path / "no" / "audit.html")])
    assert missing.exit_code != 0 and not (tmp_path / "no").exists()
