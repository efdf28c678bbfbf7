"""One SELECT on a ledger, by anybody: it can neither change the file, nor open another, nor run for ever."""

from __future__ import annotations

import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path

from constitutional.errors import LedgerError, one_line
from constitutional.ledger.file import connect_reader

Value = str | int | float | bytes | None

MAX_SQL = 20_000
"""Characters of a statement."""
MAX_VALUE = 64 << 20
"""Bytes of one value or row, which bounds what `zeroblob` and its like can ask for."""

_ALLOWED = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
_REFUSED_FUNCTIONS = {"load_extension", "fts3_tokenizer", "edit", "readfile", "writefile"}
_STEPS = 10_000  # of SQLite's machine between two looks at the clock: well below a millisecond


@dataclass(frozen=True)
class Rows:
    """What a query gave. `more` says that rows beyond the limit were left out."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]
    more: bool


def query(path: Path, sql: str, *, limit: int = 1000, seconds: float = 30.0) -> Rows:
    """The rows of one SELECT on table `judgments`, whose columns `SELECT sql FROM sqlite_master` shows.

    Args:
        path: the ledger.
        sql: one statement. `payload` is the judgment's JSON, so `payload ->> '$.mass'` reads any field.
        limit: at most so many rows.
        seconds: at most so long.

    Raises:
        LedgerError: not a ledger, more than one statement, anything but a SELECT, broken SQL, or out of time.
    """
    if len(sql) > MAX_SQL:
        raise LedgerError(f"the query has {len(sql)} characters: at most {MAX_SQL}")
    connection = connect_reader(path)
    try:
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE)
        connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        connection.set_authorizer(_may)
        deadline = time.monotonic() + seconds
        connection.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS)
        cursor = connection.execute(sql)
        if cursor.description is None:  # an empty statement, a comment
            raise LedgerError("the query is no SELECT")
        rows = cursor.fetchmany(limit + 1)
        columns = tuple(column[0] for column in cursor.description)
        return Rows(columns, tuple(rows[:limit]), len(rows) > limit)
    except (sqlite3.Error, sqlite3.Warning, UnicodeEncodeError, ValueError, OverflowError, MemoryError) as error:
        raise LedgerError(f"{path}: {_reason(error, seconds)}") from error
    finally:
        connection.close()


def _may(action: int, first: str | None, second: str | None, database: str | None, by: str | None) -> int:
    refused = action == sqlite3.SQLITE_FUNCTION and (second or "").lower() in _REFUSED_FUNCTIONS
    return sqlite3.SQLITE_OK if action in _ALLOWED and not refused else sqlite3.SQLITE_DENY


def _reason(error: Exception, seconds: float) -> str:
    said = one_line(str(error))
    if "interrupted" in said:
        return f"the query took more than {seconds:g} s"
    if "one statement" in said:
        return "a query is one statement"
    if "not authorized" in said or "prohibited" in said or "readonly" in said:
        return f"the ledger is read-only: a query is one SELECT ({said})"
    return f"the query cannot be run: {said or type(error).__name__}"
