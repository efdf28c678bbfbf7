"""Rows of prompt and preference files: JSON lines (plain or gzipped), a JSON list, or a data set on the hub."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from constitutional.errors import DataError, nearest_file

MAX_LINE = 8 << 20
MAX_LIST = 256 << 20
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

Row = dict[str, Any]


def read_rows(path_or_hub_id: str, hub_split: str = "train") -> Iterator[tuple[str, Row]]:
    """Rows one by one, each with its place (`file:line`, or `name:row N` where there are no lines).

    Args:
        path_or_hub_id: a .jsonl, .jsonl.gz or .json file; or, where no such file exists, `owner/name` on the hub.
        hub_split: which split of a hub data set to read.

    Raises:
        DataError: the file is missing, cannot be read, is empty, or a row is no JSON object.
    """
    for place, row in scan_rows(path_or_hub_id, hub_split):
        if isinstance(row, DataError):
            raise row
        yield place, row


def scan_rows(path_or_hub_id: str, hub_split: str = "train") -> Iterator[tuple[str, Row | DataError]]:
    """As `read_rows`, but a row that cannot be read comes as the error it is, and the rows after it still come.

    Reads .csv, too: every value is a text then.

    Raises:
        DataError: the file is missing, cannot be read at all or is empty.
    """
    path = Path(path_or_hub_id)
    if path.is_file():
        reader = {".json": _json_list, ".csv": _csv_rows}.get(path.suffix, _json_lines)
        rows = reader(path)
    elif path.exists():
        raise DataError(f"{path}: not a file (expected .jsonl, .jsonl.gz or .json)")
    elif _HUB_ID.fullmatch(path_or_hub_id) and path.suffix not in (".jsonl", ".json", ".gz", ".csv"):
        rows = _hub(path_or_hub_id, hub_split)
    else:
        raise DataError(f"{path}: no such file{nearest_file(path)}")
    empty = True
    for place, row in rows:
        empty = False
        if isinstance(row, dict | DataError):
            yield place, row
        else:
            yield place, DataError(f"{place}: expected a JSON object (got {type(row).__name__})")
    if empty:
        raise DataError(f"{path_or_hub_id}: no rows")


def _json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    number = 0
    try:
        with _open(path) as file:
            while line := file.readline(MAX_LINE + 1):
                number += 1
                place = f"{path}:{number}"
                if len(line) > MAX_LINE:
                    while line and not line.endswith(b"\n"):
                        line = file.readline(MAX_LINE)
                    yield place, DataError(f"{place}: line of more than {MAX_LINE} bytes")
                elif line.strip():
                    yield place, _parsed(line.rstrip(b"\r\n"), place)  # so that an error is not of the next line
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}:{number + 1}: cannot be read: {error}") from error


def _csv_rows(path: Path) -> Iterator[tuple[str, Any]]:
    raw = _whole(path)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}:{raw[: error.start].count(10) + 1}: not valid UTF-8") from error
    before = csv.field_size_limit(MAX_LINE)
    try:
        rows = csv.DictReader(io.StringIO(text, newline=""), restkey="", restval=None)
        for row in rows:
            place = f"{path}:{rows.line_num}"
            fits = "" not in row or isinstance(row[""], str)  # a column without a name is an index
            whole = fits and None not in row.values()
            yield place, row if whole else DataError(f"{place}: more or fewer values than the header has columns")
    except csv.Error as error:
        raise DataError(f"{path}:{rows.line_num + 1}: broken CSV: {error}") from error
    finally:
        csv.field_size_limit(before)


def _json_list(path: Path) -> Iterator[tuple[str, Any]]:
    raw = _whole(path)
    items = _parse(raw, f"{path}:1") if raw.strip() else []
    if not isinstance(items, list):
        raise DataError(f"{path}:1: expected a JSON list of rows (got {type(items).__name__})")
    for index, item in enumerate(items):
        yield f"{path}:row {index + 1}", item


def _whole(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_LIST + 1)
    except OSError as error:
        raise DataError(f"{path}:1: cannot be read: {error}") from error
    if len(raw) > MAX_LIST:
        raise DataError(f"{path}:1: larger than {MAX_LIST} bytes; use .jsonl")
    return raw


def _hub(name: str, split: str) -> Iterator[tuple[str, Any]]:
    import datasets

    try:
        rows = datasets.load_dataset(name, split=split)
    except Exception as error:  # the hub client raises a dozen unrelated classes
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{name}: no such file, and not to be had from the hub: {reason}") from error
    for index, row in enumerate(rows):
        yield f"{name}:row {index + 1}", row


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


def _parsed(raw: bytes, place: str) -> Any:
    try:
        return _parse(raw, place)
    except DataError as error:
        return error


def _parse(raw: bytes, place: str) -> Any:
    try:
        text = raw.decode("utf-8-sig")
        value = json.loads(text)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")  # a lone surrogate would break every later file
        return value
    except UnicodeDecodeError as error:
        raise DataError(f"{place}: not valid UTF-8") from error
    except UnicodeEncodeError as error:
        raise DataError(f"{place}: half of a surrogate pair, which is no text") from error
    except json.JSONDecodeError as error:
        base, _, line = place.rpartition(":")
        raise DataError(
            f"{base}:{int(line) + error.lineno - 1}: broken JSON at column {error.colno}: {error.msg}"
        ) from error
    except (RecursionError, ValueError) as error:
        raise DataError(f"{place}: broken JSON: nested too deeply or a number too long") from error
