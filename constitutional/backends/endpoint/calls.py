"""Every answered call of a run, kept as soon as it comes, and what the calls cost: `calls.sqlite` in the run folder.

A chunk of a stage may be thousands of calls. When a run is killed in the middle of one, its answers are here, and the
resumed run asks nothing again that was answered. A failed budget stops the run before the call that could exceed it.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from pydantic import Field, RootModel

from constitutional.atomic import cannot_write
from constitutional.backends import Unanswered
from constitutional.backends.endpoint.answers import Answered
from constitutional.errors import BudgetError, ConfigError
from constitutional.records import Record
from constitutional.yamlfile import load_model

NAME = "calls.sqlite"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS calls (
    seq INTEGER PRIMARY KEY, model TEXT NOT NULL, key TEXT, answer TEXT,
    prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, usd REAL NOT NULL, UNIQUE (model, key)) STRICT;
CREATE TABLE IF NOT EXISTS offline (
    model TEXT NOT NULL, key TEXT NOT NULL, request TEXT NOT NULL, PRIMARY KEY (model, key)) STRICT;
CREATE TABLE IF NOT EXISTS refused (
    model TEXT NOT NULL, key TEXT NOT NULL, kind TEXT NOT NULL, message TEXT NOT NULL,
    PRIMARY KEY (model, key)) STRICT;
"""


class Price(Record):
    """US dollars per million tokens."""

    prompt: float = Field(ge=0)
    completion: float = Field(ge=0)

    def of(self, prompt_tokens: int, completion_tokens: int) -> float:
        """US dollars of a call."""
        return (self.prompt * prompt_tokens + self.completion * completion_tokens) / 1e6


class _Prices(RootModel[dict[str, Price]]):
    pass


def load_prices(path: Path | None) -> dict[str, Price]:
    """Prices by model name: the shipped ones, under those of a file.

    Raises:
        ConfigError: the file is no table of prices, named as file:line:column.
    """
    found = load_model(Path(__file__).with_name("prices.yaml"), _Prices, ConfigError).root
    return {**found, **(load_model(path, _Prices, ConfigError).root if path is not None else {})}


class Calls:
    """The open store of a run; several models share it. Usable from any thread."""

    def __init__(self, path: Path | None, budget: float | None = None, *, offline: bool = False) -> None:
        """Opens the store, in memory when `path` is None.

        Args:
            path: made when absent.
            budget: US dollars that all calls ever kept here, and those under way, may cost. An attempt that broke off
                before its answer was whole counts as free.
            offline: calls are noted for batch files and not made.

        Raises:
            RunError: it cannot be written.
        """
        self.path, self.budget, self.offline = path, budget, offline
        self._lock = threading.Lock()
        self._reserved, self._under_way = 0.0, 0
        try:
            self._db = sqlite3.connect(path or ":memory:", check_same_thread=False, isolation_level=None, timeout=30)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")  # outlives a kill; a power cut may cost a few
            self._db.executescript(_SCHEMA)
            (self.spent,) = self._db.execute("SELECT coalesce(sum(usd), 0.0) FROM calls").fetchone()
        except sqlite3.Error as error:
            raise cannot_write(path or Path(NAME), OSError(str(error))) from error

    def close(self) -> None:
        """Closes the file, not under the hands of a thread that writes to it: SQLite does not bear that."""
        with self._lock:
            self._db.close()

    def find(self, model: str, keys: Iterable[str]) -> dict[str, Answered]:
        """The answers kept, by key."""
        with self._lock:
            rows = self._db.execute(
                "SELECT key, answer FROM calls WHERE model = ? AND key IN (SELECT value FROM json_each(?))",
                (model, json.dumps(list(keys))),
            ).fetchall()
        return {key: Answered.model_validate(json.loads(answer)) for key, answer in rows}

    def keep(self, model: str, key: str | None, answer: Answered | None, tokens: tuple[int, int], usd: float) -> None:
        """Keeps an answer; with neither key nor answer, only what a call without a usable answer cost.

        Raises:
            RunError: it cannot be written.
        """
        text = None if answer is None else json.dumps(answer.model_dump(mode="json"))  # ASCII: lone surrogates fit
        row = (model, key if answer else None, text, *tokens, usd)
        try:
            with self._lock:
                self._db.execute(
                    "INSERT OR IGNORE INTO calls (model, key, answer, prompt_tokens, completion_tokens, usd) "
                    "VALUES (?, ?, ?, ?, ?, ?)",
                    row,
                )
                self.spent += usd
        except sqlite3.Error as error:
            raise cannot_write(self.path or Path(NAME), OSError(str(error))) from error

    def reserve(self, usd: float) -> bool:
        """Sets the most a call can cost aside; False where calls under way may leave enough of the budget for it.

        Raises:
            BudgetError: the budget may not be enough for it.
        """
        with self._lock:
            if self.budget is not None and self.spent + self._reserved + usd > self.budget:
                if self._under_way and self.spent + usd <= self.budget:
                    return False
                raise BudgetError(
                    f"budget: ${self.spent:.4f} of ${self.budget:.4f} are spent and the next calls may exceed it; "
                    "what is answered is kept: resume with a larger --budget"
                )
            self._reserved, self._under_way = self._reserved + usd, self._under_way + 1
            return True

    def release(self, usd: float) -> None:
        """Takes back what was set aside."""
        with self._lock:
            self._under_way -= 1
            self._reserved = self._reserved - usd if self._under_way else 0.0

    def count(self, model: str | None = None) -> int:
        """Answered calls."""
        where, values = ("", ()) if model is None else (" AND model = ?", (model,))
        with self._lock:
            (rows,) = self._db.execute(f"SELECT count(*) FROM calls WHERE key IS NOT NULL{where}", values).fetchone()
        return int(rows)

    def served(self) -> dict[str, int]:
        """What servers called the models that answered, and how many calls each answered."""
        with self._lock:
            rows = self._db.execute("SELECT model, answer FROM calls WHERE answer IS NOT NULL").fetchall()
        said = ((model, json.loads(answer)) for model, answer in rows)
        names = Counter(f"{m}: {a['served']}" + (f" {a['fingerprint']}" if a["fingerprint"] else "") for m, a in said)
        return dict(sorted(names.items()))

    def wait_for(self, model: str, requests: dict[str, str]) -> None:
        """Notes calls for batch files, by key, as JSON: what an answer read back is checked against."""
        with self._lock:
            rows = [(model, key, text) for key, text in requests.items()]
            self._db.execute("BEGIN")
            self._db.executemany("INSERT OR REPLACE INTO offline VALUES (?, ?, ?)", rows)
            self._db.execute("COMMIT")

    def refuse(self, model: str, key: str, why: Unanswered) -> None:
        """Keeps that a call of a batch file will not be answered, however often it is asked."""
        with self._lock:
            self._db.execute("INSERT OR REPLACE INTO refused VALUES (?, ?, ?, ?)", (model, key, why.kind, why.message))

    def refused(self, model: str, keys: Iterable[str]) -> dict[str, Unanswered]:
        """Calls of batch files that will not be answered, by key."""
        with self._lock:
            rows = self._db.execute(
                "SELECT key, kind, message FROM refused WHERE model = ? AND key IN (SELECT value FROM json_each(?))",
                (model, json.dumps(list(keys))),
            ).fetchall()
        return {key: Unanswered(kind=kind, message=message) for key, kind, message in rows}

    def noted(self, *, waiting: bool) -> list[tuple[str, str, str]]:
        """Noted calls in their order: model, key, request. With `waiting` those neither answered nor refused."""
        without = "NOT EXISTS (SELECT 1 FROM {0} c WHERE c.model = o.model AND c.key = o.key)"
        where = f"{without.format('calls')} AND {without.format('refused')}" if waiting else "1"
        with self._lock:
            return self._db.execute(
                f"SELECT model, key, request FROM offline o WHERE {where} ORDER BY o.rowid"
            ).fetchall()
