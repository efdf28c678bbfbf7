import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from run_harness import judgment, small_ledger

from constitutional.errors import LedgerError
from constitutional.ledger import GENESIS, file, open_ledger, open_ledger_read_only
from constitutional.ledger.query import query
from constitutional.records import Judgment


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return small_ledger(tmp_path / "led?ger #1.sqlite")


def test_what_is_appended_is_read_back_in_order_by_key_by_id_and_by_comparison(path: Path) -> None:
    with open_ledger_read_only(path) as ledger:
        rows = list(ledger.judgments())
        assert [row.key for row in rows] == [judgment(f"q{i}").key for i in range(12)]
        assert rows[3] == judgment("q3", 3 / 12, comparison_id="c1", principle="p2@1.0.0")
        assert ledger.count() == 12
        assert [row.comparison_id for row in ledger.judgments(["c4", "c1", "none"])] == ["c1", "c1", "c4", "c4"]
        assert ledger.lookup([rows[5].key, "absent", rows[5].key]) == {rows[5].key: rows[5]}
        assert ledger.by_id(rows[7].id) == rows[7]
        assert ledger.by_id("absent") is None
        assert ledger.verify([ledger.head]) == []


def test_an_empty_ledger_has_the_zero_head(tmp_path: Path) -> None:
    with open_ledger(tmp_path / "l.sqlite") as ledger:
        assert (ledger.head, ledger.count(), ledger.verify(), list(ledger.judgments())) == (GENESIS, 0, [], [])
        assert ledger.append([]) == 0


def test_reading_pages_over_thousands_of_rows_and_keys(tmp_path: Path) -> None:
    with open_ledger(tmp_path / "l.sqlite") as ledger:
        rows = [judgment(f"{i}") for i in range(2501)]
        ledger.append(rows)
        assert [row.id for row in ledger.judgments()] == [row.id for row in rows]
        found = ledger.lookup([row.key for row in rows] + [f"no-{i}" for i in range(40_000)])
        assert found == {row.key: row for row in rows}


def test_the_head_depends_on_the_judgments_and_their_order_only(tmp_path: Path) -> None:
    rows = [judgment(f"{i}") for i in range(4)]
    heads = []
    for number, batches in enumerate(([rows], [rows[:1], rows[1:]], [rows[::-1]])):
        with open_ledger(tmp_path / f"{number}.sqlite") as ledger:
            for batch in batches:
                ledger.append(batch)
            heads.append(ledger.head)
    assert heads[0] == heads[1] != heads[2]


def test_a_stored_key_is_skipped_with_the_same_answer_and_refused_with_another(path: Path) -> None:
    with open_ledger(path) as ledger:
        rows, head = list(ledger.judgments()), ledger.head
        assert ledger.append(rows + rows) == 0
        assert ledger.append([judgment("new"), judgment("new")]) == 1
        other = judgment("q3", 0.9)
        with pytest.raises(LedgerError, match=f"key {other.key} is stored as {rows[3].id}, now answered as {other.id}"):
            ledger.append([judgment("newer"), other])
        assert ledger.count() == 13, "the batch of a refused row is not stored"
        assert ledger.head != head
        assert ledger.verify() == []


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE judgments SET outcome = 'tie' WHERE seq = 3",
        "DELETE FROM judgments WHERE seq = 12",
        "INSERT OR REPLACE INTO judgments SELECT 12, 'k', id, comparison_id, principle, judge, ord, outcome, p_a,"
        " payload, prev, h, recorded_at FROM judgments WHERE seq = 12",
        "INSERT OR REPLACE INTO judgments SELECT 13, key, id, comparison_id, principle, judge, ord, outcome, p_a,"
        " payload, h, 'h', recorded_at FROM judgments WHERE seq = 12",
        "INSERT INTO judgments SELECT 20, 'k', id, comparison_id, principle, judge, ord, outcome, p_a,"
        " payload, h, 'h', recorded_at FROM judgments WHERE seq = 12",
    ],
)
def test_sql_that_changes_history_is_aborted(path: Path, sql: str) -> None:
    connection = sqlite3.connect(path)
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        connection.execute(sql)
    connection.close()
    with open_ledger_read_only(path) as ledger:
        assert (ledger.count(), ledger.verify()) == (12, [])


@pytest.mark.parametrize("opener", [open_ledger, open_ledger_read_only])
@pytest.mark.parametrize("content", ["text", "other database", "a folder", "newer"])
def test_what_is_not_a_ledger_is_refused_in_one_line_and_left_alone(tmp_path: Path, opener, content: str) -> None:
    path = tmp_path / "x.sqlite"
    if content == "text":
        path.write_text("not a database " * 100)
    elif content == "a folder":
        path.mkdir()
    else:
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE judgments(x)")
        if content == "newer":
            connection.execute(f"PRAGMA application_id = {0x43414C47}")
            connection.execute("PRAGMA user_version = 2")
        connection.commit()
        connection.close()
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(LedgerError) as caught:
        opener(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert (path.read_bytes() if path.is_file() else b"") == before


def test_reading_an_absent_ledger_creates_nothing(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="no such ledger"):
        open_ledger_read_only(tmp_path / "l.sqlite")
    assert not list(tmp_path.iterdir())


def test_a_reader_cannot_write(path: Path) -> None:
    with open_ledger_read_only(path) as ledger, pytest.raises(LedgerError, match="readonly"):
        ledger.append([judgment("new")])


def test_hostile_text_comes_back_as_it_went_in(tmp_path: Path) -> None:
    text = "a\x00b\u2028c\ud800d\U0001f600'); DROP TABLE judgments;--"
    row: Judgment = judgment("q", raw=text)
    with open_ledger(tmp_path / "l.sqlite") as ledger:
        ledger.append([row])
        assert list(ledger.judgments()) == [row]
        assert ledger.verify() == []


def test_the_order_is_that_of_the_rows_whatever_the_clock_says(tmp_path: Path, monkeypatch) -> None:
    rows = [judgment(f"{i}") for i in range(12)]
    with open_ledger(tmp_path / "steady.sqlite") as ledger:
        ledger.append(rows)
        head = ledger.head
    start = datetime(2026, 3, 1, tzinfo=UTC)
    jumps = [timedelta(0), timedelta(days=-1), timedelta(days=365), timedelta(days=-1), timedelta(0), timedelta(days=1)]
    times = [start + jump for jump in jumps]
    with open_ledger(tmp_path / "jumps.sqlite") as ledger:
        for i, time_now in enumerate(times):

            class Clock(datetime):
                @classmethod
                def now(cls, tz: object = None, moment: datetime = time_now) -> datetime:
                    return moment

            monkeypatch.setattr("constitutional.ledger.datetime", Clock)
            ledger.append(rows[2 * i : 2 * i + 2])
        assert [row.key for row in ledger.judgments()] == [row.key for row in rows]
        assert (ledger.head, ledger.verify([head])) == (head, [])
    recorded = query(tmp_path / "jumps.sqlite", "SELECT recorded_at FROM judgments ORDER BY seq").rows
    assert [row[0] for row in recorded[::2]] == [moment.isoformat(timespec="milliseconds") for moment in times]


def test_what_waits_beside_a_ledger_is_looked_for_beside_the_file_and_not_beside_a_link(tmp_path, monkeypatch):
    path, seen = tmp_path / "ledger.sqlite", tmp_path / "round" / "ledger.sqlite"
    open_ledger(path).close()
    seen.parent.mkdir()
    seen.symlink_to(path)
    path.with_name("ledger.sqlite-wal").write_bytes(b"rows")  # without it beside, rows would be missing unsaid

    def fails(*_, **__):
        raise sqlite3.OperationalError("unable to open database file")

    monkeypatch.setattr(file, "_check_is_ledger", fails)
    with pytest.raises(LedgerError, match="unable to open"):
        file.connect_reader(seen)
