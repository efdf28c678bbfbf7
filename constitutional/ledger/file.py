"""The ledger's SQLite file: schema, how it is opened, transactions, and errors that name the file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from constitutional.errors import LedgerError

GENESIS = "0" * 64
"""`prev` of the first row, and the head of an empty ledger."""

_APPLICATION_ID = 0x43414C47  # "CALG": tells a ledger from any other SQLite file
_VERSION = 1

_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS judgments(
        seq INTEGER PRIMARY KEY, key TEXT UNIQUE NOT NULL, id TEXT NOT NULL, comparison_id TEXT NOT NULL,
        principle TEXT NOT NULL, judge TEXT NOT NULL, ord TEXT NOT NULL, outcome TEXT NOT NULL, p_a REAL,
        payload TEXT NOT NULL, prev TEXT NOT NULL, h TEXT NOT NULL, recorded_at TEXT NOT NULL) STRICT""",
    "CREATE INDEX IF NOT EXISTS judgments_id ON judgments(id)",
    "CREATE INDEX IF NOT EXISTS judgments_comparison ON judgments(comparison_id)",
    "CREATE INDEX IF NOT EXISTS judgments_principle ON judgments(principle)",
    """CREATE TRIGGER IF NOT EXISTS judgments_no_update BEFORE UPDATE ON judgments
        BEGIN SELECT RAISE(ABORT, 'the ledger is append-only: UPDATE refused'); END""",
    """CREATE TRIGGER IF NOT EXISTS judgments_no_delete BEFORE DELETE ON judgments
        BEGIN SELECT RAISE(ABORT, 'the ledger is append-only: DELETE refused'); END""",
    # INSERT OR REPLACE deletes without firing the DELETE trigger, so an insert must be a plain append to the chain.
    f"""CREATE TRIGGER IF NOT EXISTS judgments_only_append BEFORE INSERT ON judgments
        WHEN NEW.seq IS NOT (SELECT coalesce(max(seq), 0) + 1 FROM judgments)
          OR NEW.prev IS NOT coalesce((SELECT h FROM judgments ORDER BY seq DESC LIMIT 1), '{GENESIS}')
          OR EXISTS (SELECT 1 FROM judgments WHERE key = NEW.key)
        BEGIN SELECT RAISE(ABORT, 'the ledger is append-only: not the next row of the chain'); END""",
    f"PRAGMA application_id = {_APPLICATION_ID}",
    f"PRAGMA user_version = {_VERSION}",
)


def connect_writer(path: Path) -> sqlite3.Connection:
    """A connection that may write; the file and its tables are created when absent.

    Raises:
        LedgerError: the file is not a ledger, is damaged or cannot be written.
    """
    with naming(path):
        connection = _connect(path, "mode=rwc")
        try:
            _check_is_ledger(path, connection, may_be_empty=True)
            (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
            if mode != "wal":
                raise LedgerError(f"{path}: write-ahead logging is not possible on this file system")
            connection.execute("PRAGMA synchronous=FULL")
            with transaction(connection):
                for statement in _SCHEMA:
                    connection.execute(statement)
        except BaseException:
            connection.close()
            raise
    return connection


def connect_scratch() -> sqlite3.Connection:
    """A connection to a ledger in memory, which ends with it."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    for statement in _SCHEMA:
        connection.execute(statement)
    return connection


def connect_reader(path: Path) -> sqlite3.Connection:
    """A connection that cannot write, to an existing ledger.

    Raises:
        LedgerError: the file is absent, is not a ledger or is damaged.
    """
    if not path.is_file():
        raise LedgerError(f"{path}: no such ledger")
    with naming(path):
        path = path.resolve()  # what SQLite keeps beside a ledger stands beside the file, not beside a link to it
        connection = _connect(path, "mode=ro")
        try:
            try:
                _check_is_ledger(path, connection, may_be_empty=False)
            except sqlite3.OperationalError:
                if path.with_name(f"{path.name}-wal").exists():
                    raise
                # WAL readers need a -shm file beside the ledger; in a folder we may not write to, read without one.
                connection.close()
                connection = _connect(path, "mode=ro&immutable=1")
                _check_is_ledger(path, connection, may_be_empty=False)
            connection.execute("PRAGMA query_only=1")
            connection.execute("PRAGMA wal_autocheckpoint=0")
        except BaseException:
            connection.close()
            raise
    return connection


def ledger_in(path: Path) -> Path:
    """The ledger of a run folder, or the file itself.

    Raises:
        LedgerError: there is none.
    """
    file = path / "ledger.sqlite" if path.is_dir() else path
    if not file.is_file():
        raise LedgerError(f"{file}: no such ledger")
    return file


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All the block's statements, or none of them."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # a full disk may have rolled it back already
            connection.execute("ROLLBACK")
        raise


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turns what SQLite and the file system report into one line that names the ledger."""
    try:
        yield
    except (sqlite3.Error, OSError, UnicodeEncodeError) as error:
        if path.is_file() and path.stat().st_size and not _is_database(path):
            raise LedgerError(f"{path}: no ledger: not a file of SQLite") from error
        raise LedgerError(f"{path}: cannot use the ledger: {error}") from error


def _is_database(path: Path) -> bool:
    """Whether a file begins as SQLite's do; true of one that cannot be read, of which that is what is to be told."""
    try:
        with path.open("rb") as file:
            return file.read(16) == b"SQLite format 3\0"
    except OSError:
        return True


def _connect(path: Path, options: str) -> sqlite3.Connection:
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?{options}", uri=True, isolation_level=None, timeout=10)
    # Damaged bytes must reach `verify`, which names their row, instead of failing inside the driver.
    connection.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
    return connection


def _check_is_ledger(path: Path, connection: sqlite3.Connection, *, may_be_empty: bool) -> None:
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if not tables and not application and may_be_empty:
        return
    if application != _APPLICATION_ID:
        raise LedgerError(f"{path}: not a ledger")
    if version != _VERSION:
        raise LedgerError(f"{path}: ledger format {version}; this release reads format {_VERSION}")
