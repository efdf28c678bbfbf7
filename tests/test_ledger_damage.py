"""A ledger that was tampered with or damaged: `verify` finds it and names the row."""

import json
import os
import random
import shutil
import sqlite3
from pathlib import Path

import pytest
from fake_run import make_run
from run_harness import judgment, small_ledger

from constitutional.audit.ledger_check import check_ledger_of
from constitutional.errors import LedgerError
from constitutional.ledger import open_ledger, open_ledger_read_only
from constitutional.records import Judgment
from constitutional.runs import open_run, write_atomic

TRIGGERS = ("judgments_no_update", "judgments_no_delete", "judgments_only_append")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return small_ledger(tmp_path / "led?ger #1.sqlite")


def raw(path: Path, *statements: tuple[str, tuple[object, ...]]) -> None:
    """Tampers: drops the triggers and runs SQL."""
    connection = sqlite3.connect(path)
    for name in TRIGGERS:
        connection.execute(f"DROP TRIGGER {name}")
    for sql, values in statements:
        connection.execute(sql, values)
    connection.commit()
    connection.close()


def test_any_flipped_bit_of_a_payload_is_found_and_its_row_named(path: Path, tmp_path: Path) -> None:
    draw = random.Random(5)
    for trial in range(int(os.environ.get("BIT_FLIPS", "200"))):
        copy = tmp_path / f"{trial}.sqlite"
        shutil.copy(path, copy)
        with sqlite3.connect(copy) as connection:
            seq = draw.randint(1, 12)
            (blob,) = connection.execute("SELECT CAST(payload AS BLOB) FROM judgments WHERE seq=?", (seq,)).fetchone()
        connection.close()
        flipped = bytearray(blob)
        flipped[draw.randrange(len(blob))] ^= 1 << draw.randrange(8)
        raw(copy, ("UPDATE judgments SET payload = CAST(? AS TEXT) WHERE seq = ?", (bytes(flipped), seq)))
        with open_ledger_read_only(copy) as ledger:
            problems = ledger.verify()
            assert problems, f"bit flip in row {seq} not found"
            assert all(f"row {seq} " in problem for problem in problems), problems


@pytest.mark.parametrize("column", ["key", "id", "comparison_id", "principle", "judge", "ord", "outcome", "p_a"])
def test_an_indexed_column_that_is_not_the_payloads_is_found(path: Path, column: str) -> None:
    raw(path, (f"UPDATE judgments SET {column} = ? WHERE seq = 5", (0.99 if column == "p_a" else "x",)))
    with open_ledger_read_only(path) as ledger:
        assert [p.split("): ")[1] for p in ledger.verify()] == ["the indexed columns do not match the payload"]
        assert "row 5 " in ledger.verify()[0]


def test_a_row_forged_to_agree_with_itself_breaks_the_chain(path: Path) -> None:
    with open_ledger_read_only(path) as ledger:
        row = list(ledger.judgments())[4]
    forged = judgment("q4", 0.99, comparison_id=row.comparison_id, principle=row.principle)
    values = (forged.id, forged.p_a, forged.to_json())
    raw(path, ("UPDATE judgments SET id = ?, p_a = ?, payload = ? WHERE seq = 5", values))
    with open_ledger_read_only(path) as ledger:
        assert [p.split("): ")[1] for p in ledger.verify()] == ["the hash does not match the payload"]


def test_removed_swapped_and_cut_rows_are_found(path: Path, tmp_path: Path) -> None:
    with open_ledger_read_only(path) as ledger:
        head = ledger.head
    copies = [shutil.copy(path, tmp_path / f"{i}.sqlite") for i in range(3)]
    raw(Path(copies[0]), ("DELETE FROM judgments WHERE seq = 4", ()))
    raw(
        Path(copies[1]),
        *((f"UPDATE judgments SET seq = {b} WHERE seq = {a}", ()) for a, b in ((3, 99), (4, 3), (99, 4))),
    )
    raw(Path(copies[2]), ("DELETE FROM judgments WHERE seq > 10", ()))
    expected = ("row 4 to 4 missing", "row 3 ", f"no row has the recorded head {head}")
    for copy, words in zip(copies, expected, strict=True):
        with open_ledger_read_only(Path(copy)) as ledger:
            assert words in " ".join(ledger.verify([head]))


def run_with_judgments(path: Path) -> Path:
    """A run whose judge step made 300 judgments, and its ledger and WAL beside it as a crash would leave them."""
    run = make_run(path, until="revise")
    made = [judgment(f"more{i}") for i in range(300)]
    with open_run(run) as folder, open_ledger(run / "ledger.sqlite") as ledger:
        stage = folder.stage(6, "judge", {"seed": 1})
        stage.run_chunks(
            made, lambda chunk, index: chunk, chunk_size=20, output_type=Judgment, before_commit=ledger.append
        )
        result = stage.finish(ledger_head=ledger.head)
        for name in ("ledger.sqlite", "ledger.sqlite-wal"):
            shutil.copy(run / name, path.parent / name)
    shutil.copy(run / "ledger.sqlite", path.parent / "folded.sqlite")
    current = json.loads((run / "current.json").read_text()) | {"judge": result.folder.relative_to(run).as_posix()}
    write_atomic(run / "current.json", json.dumps(current))
    return run


def test_a_cut_file_is_refused_or_the_rows_that_are_gone_are_counted_never_silent(tmp_path: Path) -> None:
    run = run_with_judgments(tmp_path / "run")
    assert check_ledger_of(run).problems == ()
    file, wal = run / "ledger.sqlite", run / "ledger.sqlite-wal"
    draw, refused, counted = random.Random(3), 0, 0
    for trial in range(int(os.environ.get("CUTS", "51"))):
        for old in run.glob("ledger.sqlite*"):
            old.unlink()
        source = ("folded", "wal", "both")[trial % 3]
        shutil.copy(tmp_path / ("folded.sqlite" if source == "folded" else "ledger.sqlite"), file)
        if source != "folded":
            shutil.copy(tmp_path / "ledger.sqlite-wal", wal)
        for victim in (file, wal) if source == "both" else (wal,) if source == "wal" else (file,):
            os.truncate(victim, max(0, victim.stat().st_size - draw.randint(1, 64 * 1024)))
        found = check_ledger_of(run)
        assert found.problems, f"a cut file passed ({source}, trial {trial})"
        if found.rows is None:
            assert any("ledger.sqlite" in line for line in found.problems) and found.remedies
            refused += 1
        elif found.rows < 300:
            with open_ledger_read_only(file) as ledger:  # a prefix of whole rows
                assert [j.key for j in ledger.judgments()] == [judgment(f"more{i}").key for i in range(found.rows)]
            gone = f"{300 - found.rows} of the 300 judgments of step 'judge' are not in it"
            assert any(gone in line for line in found.problems) and found.remedies
            counted += 1
    assert counted


def test_a_damaged_row_stops_reading_with_its_number(path: Path) -> None:
    raw(path, ("UPDATE judgments SET payload = replace(payload, '0.75', '0.76') WHERE seq = 2", ()))
    with open_ledger(path) as ledger, pytest.raises(LedgerError, match=r"ger #1\.sqlite: row 2 is damaged"):
        list(ledger.judgments())
