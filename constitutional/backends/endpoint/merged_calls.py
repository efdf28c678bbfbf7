"""The paid calls of a copied run folder taken into another's `calls.sqlite`, so that a budget there counts them."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from contextlib import closing
from pathlib import Path

from constitutional.backends.endpoint.calls import NAME, Calls
from constitutional.errors import RunError

_SAME = "m.seq = s.seq AND m.model = s.model AND m.key IS s.key AND m.usd = s.usd AND m.answer IS s.answer"


def merge_calls(run: Path, copy: Path) -> float:
    """Takes over what was asked and paid in a copy of a run folder after it was copied.

    What both stores begin with was there when the copy was made, and is counted already. A call that was paid in both
    is counted twice, its answer kept once. A copy that is merged again adds nothing.

    Args:
        run: the folder merged into; its store is made when absent.
        copy: the other folder; without a store nothing was asked there.

    Returns:
        US dollars added.

    Raises:
        RunError: a store cannot be read or written.
    """
    if not (copy / NAME).is_file():
        return 0.0
    Calls(run / NAME).close()  # made, or of today's form
    try:
        with closing(sqlite3.connect(run / NAME, isolation_level=None, timeout=30)) as db:
            db.execute("CREATE TABLE IF NOT EXISTS merged (rows TEXT PRIMARY KEY) STRICT")
            db.execute("ATTACH DATABASE ? AS other", (str(copy / NAME),))
            db.execute("BEGIN IMMEDIATE")
            usd = _take_over(db)
            db.execute("COMMIT")
            return usd
    except sqlite3.Error as error:
        raise RunError(f"{copy / NAME}: its calls cannot be taken into {run / NAME}: {error}") from error


def _take_over(db: sqlite3.Connection) -> float:
    (first,) = db.execute(
        f"SELECT min(s.seq) FROM other.calls s LEFT JOIN main.calls m ON {_SAME} WHERE m.seq IS NULL"
    ).fetchone()
    if first is None:
        return 0.0
    known, usd = hashlib.sha256(), 0.0
    for row in db.execute("SELECT seq, model, key, answer, usd FROM other.calls WHERE seq >= ? ORDER BY seq", (first,)):
        known.update(json.dumps(row).encode())
        usd += row[-1]
    if not db.execute("INSERT OR IGNORE INTO merged VALUES (?)", (known.hexdigest(),)).rowcount:
        return 0.0
    db.execute(
        """
        INSERT INTO main.calls (model, key, answer, prompt_tokens, completion_tokens, usd)
        SELECT model, iif(twice, NULL, key), iif(twice, NULL, answer), prompt_tokens, completion_tokens, usd
        FROM (SELECT *, EXISTS (SELECT 1 FROM main.calls m WHERE m.model = s.model AND m.key = s.key) AS twice
              FROM other.calls s WHERE seq >= ? ORDER BY seq)
        """,
        (first,),
    )
    return usd
