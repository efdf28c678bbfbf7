"""`ledger query`, `ledger export` and `ledger verify`: nothing they are asked changes a ledger or leaves it."""

from __future__ import annotations

import itertools
import json
import resource
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from fake_run import make_run
from run_harness import judgment, small_ledger
from typer.testing import CliRunner

from constitutional.audit.ledger_check import check_ledger_of
from constitutional.cli.app import app
from constitutional.errors import LedgerError
from constitutional.ledger import open_ledger, open_ledger_read_only
from constitutional.ledger.export import export
from constitutional.ledger.query import MAX_SQL, query


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return small_ledger(tmp_path / "led?ger #1.sqlite")


def test_a_select_gives_columns_and_rows(path: Path) -> None:
    found = query(path, "SELECT principle, count(*) AS n, round(avg(p_a), 4) FROM judgments GROUP BY 1 ORDER BY 1;")
    assert found.columns == ("principle", "n", "round(avg(p_a), 4)") and not found.more
    assert found.rows == (("p0@1.0.0", 6, round((0 + 1 + 4 + 5 + 8 + 9) / 72, 4)), ("p2@1.0.0", 6, 0.5417))
    limited = query(path, "SELECT seq FROM judgments ORDER BY seq DESC", limit=5)
    assert limited.rows == tuple((i,) for i in range(12, 7, -1)) and limited.more
    assert query(path, "SELECT payload ->> '$.mass' FROM judgments LIMIT 1").rows == ((0.75,),)
    counted = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 9) SELECT max(x) FROM n"
    assert query(path, counted).rows == ((9,),)


REFUSED = [
    "UPDATE judgments SET outcome = 'tie'",
    "DELETE FROM judgments",
    "INSERT INTO judgments SELECT * FROM judgments",
    "REPLACE INTO judgments SELECT * FROM judgments",
    "DROP TABLE judgments",
    "DROP TRIGGER judgments_no_update",
    "CREATE TABLE x(y)",
    "CREATE TEMP TABLE x(y)",
    "CREATE TEMP VIEW v AS SELECT 1",
    "ALTER TABLE judgments ADD COLUMN x",
    "ATTACH DATABASE 'other.sqlite' AS other",
    "ATTACH DATABASE ':memory:' AS other",
    "DETACH DATABASE main",
    "VACUUM",
    "VACUUM INTO 'copy.sqlite'",
    "PRAGMA query_only = 0",
    "PRAGMA writable_schema = 1",
    "PRAGMA journal_mode = DELETE",
    "PRAGMA wal_checkpoint(TRUNCATE)",
    "BEGIN IMMEDIATE",
    "COMMIT",
    "SAVEPOINT s",
    "REINDEX",
    "ANALYZE",
    "SELECT load_extension('x')",
    "EXPLAIN DELETE FROM judgments",
    "SELECT * FROM pragma_database_list",
    "WITH gone AS (SELECT seq FROM judgments) DELETE FROM judgments WHERE seq IN gone",
]


@pytest.mark.parametrize("sql", REFUSED)
def test_whatever_is_no_select_is_refused_in_one_line_and_changes_nothing(path: Path, sql: str, monkeypatch) -> None:
    monkeypatch.chdir(path.parent)
    before = path.read_bytes()
    with pytest.raises(LedgerError) as caught:
        query(path, sql)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    assert path.read_bytes() == before
    assert {file.name.removesuffix("-wal").removesuffix("-shm") for file in path.parent.iterdir()} == {path.name}
    with open_ledger_read_only(path) as ledger:
        assert (ledger.count(), ledger.verify()) == (12, [])


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("SELECT 1; SELECT 2", "a query is one statement"),
        ("SELECT 1; DROP TABLE judgments", "a query is one statement"),
        ("", "no SELECT"),
        ("-- nothing", "no SELECT"),
        ("SELEC 1", 'near "SELEC": syntax error'),
        ("SELECT nowhere FROM judgments", "no such column: nowhere"),
        ("SELECT ?", "cannot be run"),
        ("SELECT '\x00'", "cannot be run"),
        ("SELECT '\ud800'", "cannot be run"),
        ("SELECT zeroblob(2000000000)", "too big"),
        ("SELECT 1 --" + "x" * MAX_SQL, "characters: at most"),
    ],
)
def test_what_is_wrong_with_a_query_is_said(path: Path, sql: str, said: str) -> None:
    with pytest.raises(LedgerError, match=said) as caught:
        query(path, sql)
    assert "\n" not in str(caught.value)


def test_a_query_that_would_run_for_ever_is_stopped(path: Path) -> None:
    begun = time.monotonic()
    endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n"
    with pytest.raises(LedgerError, match=r"took more than 0\.2 s"):
        query(path, endless, seconds=0.2)
    assert time.monotonic() - begun < 5


def test_the_command_prints_a_table_or_json_and_no_control_characters(path: Path) -> None:
    with open_ledger(path) as ledger:
        ledger.append([judgment("hostile", raw="\x1b[2Jboo\nline\u202e")])
    asked = "SELECT seq, p_a, payload ->> '$.raw' AS raw FROM judgments WHERE seq > 11"
    done = CliRunner().invoke(app, ["ledger", "query", str(path), asked])
    assert done.exit_code == 0 and "\x1b" not in done.output and "\u202e" not in done.output
    assert [line.split() for line in done.output.splitlines()] == [
        ["seq", "p_a", "raw"], ["12", "0.9166666666666666"], ["13", "0.5", "[2Jboo", "line"],
    ]  # fmt: skip
    done = CliRunner().invoke(app, ["ledger", "query", str(path), asked, "--json"])
    rows = [json.loads(line) for line in done.output.splitlines()]
    assert rows[1] == {"seq": 13, "p_a": 0.5, "raw": "\x1b[2Jboo\nline\u202e"} and "\x1b" not in done.output


def test_the_command_is_quick_and_loads_nothing_heavy(path: Path) -> None:
    arguments = ["constitutional", "ledger", "query", str(path), "SELECT count(*) FROM judgments"]
    code = (
        f"import sys; sys.argv = {arguments!r}\n"
        "from constitutional.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print([m for m in ('torch', 'trl', 'datasets', 'openai', 'pyarrow', 'numpy', 'scipy') if m in sys.modules])"
    )
    best = 9.9
    for _ in range(3):  # seconds of CPU, the best of three: the machine may be busy
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert done.stdout.split("\n")[1:] == ["12", "[]", ""] and best < 0.5


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_an_export_holds_every_judgment_and_its_place_in_the_chain(path: Path, tmp_path: Path, suffix: str) -> None:
    with open_ledger(path) as ledger:
        ledger.append([judgment("odd", None, outcome="error", raw="a\ud800\u2028", logprobs=(), mass=None)])
        kept, head = list(ledger.judgments()), ledger.head
        out = tmp_path / f"out{suffix}"
        assert export(path, out) == 13  # also while the ledger is open
    if suffix == ".parquet":
        rows = pq.read_table(out).to_pylist()
        assert rows[-1]["raw"] == "a\\ud800\u2028"
    else:
        rows = [json.loads(line) for line in out.read_text("utf-8").split("\n")[:-1]]
        assert rows[-1]["raw"] == "a\ud800\u2028"
    assert [row["seq"] for row in rows] == list(range(1, 14)) and rows[-1]["h"] == head
    for row, one in zip(rows, kept, strict=True):
        fields = one.model_dump(mode="json")
        usage = fields.pop("usage")
        expected = {**fields, **usage}
        assert {name: row[name] for name in expected if name != "raw"} == {
            name: value for name, value in expected.items() if name != "raw"
        }
    assert all(row["prev"] == before["h"] for before, row in itertools.pairwise(rows))


def test_an_export_is_whole_or_absent(path: Path, tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=r"no format '.csv'"):
        export(path, tmp_path / "out.csv")
    with pytest.raises(LedgerError, match="no such ledger"):
        export(tmp_path / "none.sqlite", tmp_path / "out.jsonl")
    connection = sqlite3.connect(path)
    connection.execute("DROP TRIGGER judgments_no_update")
    connection.execute("UPDATE judgments SET payload = '{' WHERE seq = 7")
    connection.commit()
    connection.close()
    for name in ("out.parquet", "out.jsonl"):
        with pytest.raises(LedgerError, match="row 7 is damaged"):
            export(path, tmp_path / name)
    assert {file.suffix for file in tmp_path.iterdir() if "-" not in file.suffix} == {".sqlite"}


def test_a_run_whose_ledger_lost_rows_is_told_how_many_and_where_they_stand(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", until="judge")
    whole = check_ledger_of(run)
    assert (
        whole.problems == () and whole.rows and CliRunner().invoke(app, ["ledger", "verify", str(run)]).exit_code == 0
    )
    cut = shutil.copytree(run, tmp_path / "cut")
    connection = sqlite3.connect(cut / "ledger.sqlite")
    connection.execute("DROP TRIGGER judgments_no_delete")
    connection.execute("DELETE FROM judgments WHERE seq > ?", (whole.rows - 3,))
    connection.commit()
    connection.close()
    found = check_ledger_of(cut)
    assert found.rows == whole.rows - 3
    assert any("rows were cut off" in line for line in found.problems)
    assert any("3 of the " in line and "judgments of step 'judge' are not in it" in line for line in found.problems)
    assert any("still stand in" in line and "data.jsonl" in line for line in found.remedies)
    done = CliRunner().invoke(app, ["ledger", "verify", str(cut), "--json"])
    assert done.exit_code == 1 and json.loads(done.output)["rows"] == whole.rows - 3
    for file in cut.glob("ledger.sqlite-*"):
        file.unlink()
    (cut / "ledger.sqlite").write_bytes(b"no database " * 100)
    found = check_ledger_of(cut)
    assert found.rows is None and len(found.remedies) == 2  # gate and judge
    alone = tmp_path / "alone.sqlite"
    alone.write_bytes(b"no database " * 100)
    assert "ledger export" in check_ledger_of(alone).remedies[0]
