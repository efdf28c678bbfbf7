"""A ledger that was tampered with or damaged: `verify` finds it and names the row."""

import itertools
import os
import random
import shutil
import sqlite3
from pathlib import Path

import pytest
from run_harness import judgment, small_ledger

from constitutional.errors import LedgerError
from constitutional.ledger import open_ledger, open_ledger_read_only

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


def test_a_cut_file_is_refused_or_its_loss_is_found_never_silent(path: Path, tmp_path: Path) -> None:
    with open_ledger(path) as ledger:
        ledger.append([judgment(f"more{i}") for i in range(300)])
        shutil.copy(path, tmp_path / "wal.sqlite")  # the file and its WAL as a crash would leave them
        shutil.copy(f"{path}-wal", tmp_path / "wal.sqlite-wal")
        head = ledger.head
    draw, refused, found = random.Random(3), 0, 0
    for trial, source in itertools.product(range(25), ("folded", "wal")):
        copy = tmp_path / f"cut{trial}{source}.sqlite"
        if source == "folded":
            shutil.copy(path, copy)
            victim = copy
        else:
            shutil.copy(tmp_path / "wal.sqlite", copy)
            victim = Path(shutil.copy(tmp_path / "wal.sqlite-wal", f"{copy}-wal"))
        os.truncate(victim, max(0, victim.stat().st_size - draw.randint(1, 64 * 1024)))
        try:
            with open_ledger_read_only(copy) as ledger:
                assert ledger.verify([head]), "a cut file passed"
                found += 1
        except LedgerError as error:
            assert str(copy) in str(error)
            refused += 1
    assert refused and found


def test_a_damaged_row_stops_reading_with_its_number(path: Path) -> None:
    raw(path, ("UPDATE judgments SET payload = replace(payload, '0.75', '0.76') WHERE seq = 2", ()))
    with open_ledger(path) as ledger, pytest.raises(LedgerError, match=r"ger #1\.sqlite: row 2 is damaged"):
        list(ledger.judgments())
