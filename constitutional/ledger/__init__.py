"""The ledger: every judgment, append-only, each row chained to the one before it by a hash.

One SQLite file in WAL mode with `synchronous=FULL`. At most one connection writes, held under the run folder's lock
(SQLite before 3.51.3 can lose pages when two connections checkpoint one WAL at the same instant); readers open it
read-only and never block. `h = sha256(prev + payload)`, where `payload` is the judgment's canonical JSON; the
wall-clock time stands beside it, unhashed, so equal runs have equal heads.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from constitutional.errors import LedgerError
from constitutional.ledger.file import GENESIS, connect_reader, connect_scratch, connect_writer, naming, transaction
from constitutional.records import Judgment

__all__ = ["GENESIS", "Ledger", "open_ledger", "open_ledger_read_only", "scratch_ledger"]

_PAGE = 1000
_STORED = "SELECT key, id FROM judgments WHERE key IN (SELECT value FROM json_each(?))"
_INSERT = f"INSERT INTO judgments VALUES ({','.join('?' * 13)})"
_BY_SEQ = "SELECT seq, payload FROM judgments WHERE seq IN (SELECT value FROM json_each(?)) ORDER BY seq"
_PAYLOADS = "SELECT payload FROM judgments WHERE seq > ? AND seq <= ? ORDER BY seq"


def open_ledger(path: Path) -> Ledger:
    """Opens a ledger for writing and creates it when absent. The caller holds the run folder's lock.

    Raises:
        LedgerError: the file is not a ledger, is damaged or cannot be written.
    """
    return Ledger(path, connect_writer(path))


def open_ledger_read_only(path: Path) -> Ledger:
    """Opens an existing ledger for reading, also while a run writes to it.

    Raises:
        LedgerError: the file is absent, is not a ledger or is damaged.
    """
    return Ledger(path, connect_reader(path))


def scratch_ledger() -> Ledger:
    """A ledger in memory: what a process that does not hold the run is told of the run's own."""
    return Ledger(Path(":memory:"), connect_scratch())


class Ledger:
    """An open ledger; a context manager. Every method raises LedgerError, naming the file, when it cannot be used."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file; the writer folds the WAL back into it."""
        self._connection.close()

    def append(self, judgments: Sequence[Judgment]) -> int:
        """Stores a batch in one transaction, whole or not at all; a key stored already with the same id is skipped.

        Returns:
            The number of new rows.

        Raises:
            LedgerError: a key is stored with another id, or the batch cannot be written (disk full).
        """
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        with naming(self.path), transaction(self._connection):
            seq, prev = self._last()
            keys = json.dumps([row.key for row in judgments])
            stored: dict[str, str] = dict(self._connection.execute(_STORED, (keys,)).fetchall())
            new: list[tuple[str | int | float | None, ...]] = []
            for row in judgments:
                known = stored.get(row.key)
                if known == row.id:
                    continue
                if known is not None:
                    raise LedgerError(f"{self.path}: key {row.key} is stored as {known}, now answered as {row.id}")
                stored[row.key] = row.id
                payload = row.to_json().encode("utf-8", "backslashreplace").decode()  # lone surrogates as \udXXX
                seq, h = seq + 1, _chain(prev, payload)
                new.append((seq, row.key, *_indexed(row), payload, prev, h, now))
                prev = h
            self._connection.executemany(_INSERT, new)
        return len(new)

    def lookup(self, keys: Iterable[str]) -> dict[str, Judgment]:
        """The stored answers to questions, by key; a question not yet answered is absent. Any number of keys."""
        rows = self._query("key IN (SELECT value FROM json_each(?))", json.dumps(list(keys)))
        return {judgment.key: judgment for judgment in rows}

    def judgments(self, comparison_ids: Iterable[str] | None = None) -> Iterator[Judgment]:
        """All judgments, or those on some comparisons, in stored order; what is added meanwhile is left out."""
        if comparison_ids is None:
            return self._query("1")
        return self._query("comparison_id IN (SELECT value FROM json_each(?))", json.dumps(list(comparison_ids)))

    def payloads(self) -> Iterator[str]:
        """The canonical JSON of every judgment, in stored order: for readers of millions, who build no records.

        Nothing is checked (`verify` does that). What is added meanwhile is left out.
        """
        with naming(self.path):
            (last,) = self._connection.execute("SELECT coalesce(max(seq), 0) FROM judgments").fetchone()
        for start in range(0, last, _PAGE):
            with naming(self.path):
                page = self._connection.execute(_PAYLOADS, (start, min(start + _PAGE, last))).fetchall()
            for (payload,) in page:
                yield payload

    def by_id(self, judgment_id: str) -> Judgment | None:
        """The judgment an audit cites, or None."""
        return next(self._query("id = ?", judgment_id), None)

    def principles(self) -> list[str]:
        """Every principle that something was judged under, `id@version`."""
        with naming(self.path):
            found = self._connection.execute("SELECT DISTINCT principle FROM judgments ORDER BY principle")
            return [principle for (principle,) in found]

    def outcomes(self, principle: str) -> dict[str, int]:
        """How many judgments under a principle (`id@version`) came to each outcome."""
        count = "SELECT outcome, count(*) FROM judgments WHERE principle = ? GROUP BY outcome ORDER BY outcome"
        with naming(self.path):
            return dict(self._connection.execute(count, (principle,)).fetchall())

    def wordings(self, principle: str) -> dict[str, int]:
        """How many judgments under a principle (`id@version`) were given under each text of it, by its digest."""
        count = (
            "SELECT json_extract(payload, '$.principle_digest') AS digest, count(*) FROM judgments "
            "WHERE principle = ? GROUP BY digest ORDER BY digest"
        )
        with naming(self.path):
            return dict(self._connection.execute(count, (principle,)).fetchall())

    def ids(self) -> set[str]:
        """The ids of all judgments."""
        with naming(self.path):
            return {judgment_id for (judgment_id,) in self._connection.execute("SELECT id FROM judgments")}

    def count(self) -> int:
        """Number of rows."""
        with naming(self.path):
            (rows,) = self._connection.execute("SELECT count(*) FROM judgments").fetchone()
        return int(rows)

    @property
    def head(self) -> str:
        """`h` of the last row, `GENESIS` when there is none."""
        with naming(self.path):
            return self._last()[1]

    def verify(self, heads: Iterable[str] = ()) -> list[str]:
        """Recomputes the chain and compares the indexed columns, and the ids, with the payloads.

        Args:
            heads: heads recorded elsewhere (the stages' manifests); each must be in the chain, or rows were cut off.

        Returns:
            One line a problem, naming the row; empty when all is well.
        """
        problems: list[str] = []
        missing = set(heads) - {GENESIS}
        seq, prev = 0, GENESIS
        try:
            for (line,) in self._connection.execute("PRAGMA integrity_check(20)"):
                if line != "ok":
                    problems.append(f"{self.path}: {line}")
            for row in self._connection.execute("SELECT * FROM judgments ORDER BY seq"):
                if row[0] != seq + 1:
                    problems.append(f"{self.path}: row {seq + 1} to {row[0] - 1} missing")
                seq = row[0]
                problems += [f"{self.path}: row {seq} (key {row[1]!a}): {what}" for what in _row_problems(row, prev)]
                prev = row[11]
                missing.discard(prev)
        except sqlite3.Error as error:
            problems.append(f"{self.path}: unreadable after row {seq}: {error}")
        problems += [f"{self.path}: no row has the recorded head {h}: rows were cut off" for h in sorted(missing)]
        return problems

    def _last(self) -> tuple[int, str]:
        row = self._connection.execute("SELECT seq, h FROM judgments ORDER BY seq DESC LIMIT 1").fetchone()
        if row and not isinstance(row[1], str):
            raise LedgerError(f"{self.path}: row {row[0]} is damaged, `verify` lists all")
        return (row[0], row[1]) if row else (0, GENESIS)

    def _query(self, condition: str, *parameters: str) -> Iterator[Judgment]:
        """Reads in pages, so that no long read transaction keeps the writer's WAL from being folded back."""
        with naming(self.path):
            found = self._connection.execute(f"SELECT seq FROM judgments WHERE {condition}", parameters)
            wanted = sorted(seq for (seq,) in found)
        for start in range(0, len(wanted), _PAGE):
            with naming(self.path):
                page = self._connection.execute(_BY_SEQ, (json.dumps(wanted[start : start + _PAGE]),)).fetchall()
            for seq, payload in page:
                try:
                    judgment = Judgment.model_validate(json.loads(payload))
                except (ValueError, TypeError, RecursionError) as error:
                    reason = " ".join(str(error).split())
                    raise LedgerError(f"{self.path}: row {seq} is damaged, `verify` lists all: {reason}") from error
                yield judgment


def _indexed(judgment: Judgment) -> tuple[str | float | None, ...]:
    """The columns between `key` and `payload`: copies of payload fields, for queries."""
    j = judgment
    return (j.id, j.comparison_id, j.principle, j.judge, j.order, j.outcome, j.p_a)


def _chain(prev: str, payload: str) -> str:
    return hashlib.sha256((prev + payload).encode("utf-8", "surrogateescape")).hexdigest()


def _row_problems(row: tuple[Any, ...], prev: str) -> Iterator[str]:
    payload = row[9]
    if not all(isinstance(row[column], str) for column in (9, 10, 11)):  # half a row, read from a damaged file
        yield "payload, `prev` or `h` is not text"
        return
    if row[10] != prev:
        yield "the chain is broken: `prev` is not the hash of the row before"
    if row[11] != _chain(row[10], payload):
        yield "the hash does not match the payload"
    try:
        judgment = Judgment.model_validate(json.loads(payload))
    except (ValueError, RecursionError) as error:
        yield f"the payload is not a judgment: {' '.join(str(error).split())!a}"
        return
    if (row[1], *row[2:9]) != (judgment.key, *_indexed(judgment)):
        yield "the indexed columns do not match the payload"
