"""A ledger as Parquet or JSON lines, for other tools: every judgment with its row number and its place in the chain."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from constitutional.atomic import atomic_file
from constitutional.errors import LedgerError, nearest
from constitutional.ledger.file import connect_reader, naming
from constitutional.records import Judgment, Usage, canonical_json

_BATCH = 10_000
_SUFFIXES = (".parquet", ".jsonl")


def export(path: Path, out: Path) -> int:
    """Writes all judgments to a file, in stored order.

    The columns are a judgment's fields (`usage` as two), and `seq`, `prev`, `h` and `recorded_at` of its row. The file
    is whole or absent. What a run appends meanwhile is left out.

    Args:
        path: the ledger.
        out: the file; its name ends in .parquet or .jsonl.

    Returns:
        The number of rows.

    Raises:
        LedgerError: not a ledger, a damaged row (named), another kind of file, or the file cannot be written.
    """
    if out.suffix not in _SUFFIXES:
        raise LedgerError(f"{out}: no format '{out.suffix}'{nearest(out.suffix, _SUFFIXES)}")
    connection = connect_reader(path)
    try:
        with naming(path):
            connection.execute("BEGIN")  # one state of the file, whatever is appended
            return (_parquet if out.suffix == ".parquet" else _json_lines)(_batches(path, connection), out)
    finally:
        connection.close()


def _batches(path: Path, connection: sqlite3.Connection) -> Iterator[list[dict[str, Any]]]:
    cursor = connection.execute("SELECT seq, payload, prev, h, recorded_at FROM judgments ORDER BY seq")
    while rows := cursor.fetchmany(_BATCH):
        yield [_row(path, *row) for row in rows]


def _row(path: Path, seq: int, payload: str, prev: str, h: str, recorded_at: str) -> dict[str, Any]:
    try:
        fields = Judgment.model_validate(json.loads(payload)).model_dump(mode="json")
    except (ValueError, TypeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise LedgerError(f"{path}: row {seq} is damaged, `verify` lists all: {reason}") from error
    return {"seq": seq, **fields, **fields.pop("usage"), "prev": prev, "h": h, "recorded_at": recorded_at}


def _json_lines(batches: Iterator[list[dict[str, Any]]], out: Path) -> int:
    count = 0
    with atomic_file(out, LedgerError) as file:
        for rows in batches:
            for row in rows:
                file.write((canonical_json(row) + "\n").encode("utf-8", "backslashreplace"))
            count += len(rows)
    return count


def _parquet(batches: Iterator[list[dict[str, Any]]], out: Path) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = dict.fromkeys(("seq", "seed", "prompt_tokens", "completion_tokens"), pa.int64())
    types |= {"p_a": pa.float64(), "mass": pa.float64(), "logprobs": pa.list_(pa.float64())}
    schema = pa.schema([(name, types.get(name, pa.string())) for name in _columns()])
    count = 0
    with atomic_file(out, LedgerError) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for rows in batches:
            cells = [{n: row.get(n) if n in types else _text(row.get(n)) for n in schema.names} for row in rows]
            writer.write_table(pa.Table.from_pylist(cells, schema))
            count += len(rows)
    return count


def _columns() -> list[str]:
    own = [name for name in Judgment.model_fields if name != "usage"]
    return ["seq", *own, *Usage.model_fields, "prev", "h", "recorded_at"]


def _text(value: object) -> str | None:
    """A text, half a surrogate pair escaped; what is none as JSON."""
    if value is None:
        return None
    text = value if isinstance(value, str) else canonical_json(value)
    return text.encode("utf-8", "backslashreplace").decode()
