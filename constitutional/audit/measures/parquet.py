"""An audit as two Parquet tables: one row for each principle, judge and version, and one for each opinion asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from constitutional.atomic import atomic_file
from constitutional.audit.measures.columns import OUTCOMES
from constitutional.audit.measures.corpus import ATTRIBUTES
from constitutional.audit.measures.records import Audit, Estimate
from constitutional.audit.measures.table import UNLABELLED, Table
from constitutional.records import Record
from constitutional.statistics import Interval, Rate

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

PRINCIPLES, OPINIONS = "principles.parquet", "opinions.parquet"
_SUBJECT = ("principle", "principle_digest", "judge", "mode", "template_digest")


def write_parquet(folder: Path, audit: Audit, table: Table) -> tuple[Path, Path]:
    """Writes both tables into a folder, which is made when absent.

    Raises:
        RunError: the folder cannot be written.
    """
    import pyarrow.parquet as pq

    from constitutional.atomic import cannot_write

    paths = folder / PRINCIPLES, folder / OPINIONS
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, rows in zip(paths, (principles_table(audit), opinions_table(table)), strict=True):
            with atomic_file(path) as file:
                pq.write_table(rows, file)
    except OSError as error:
        raise cannot_write(folder, error) from error
    return paths


def principles_table(audit: Audit) -> pa.Table:
    """One row for each principle, judge, mode and version; figure F as F, F_n, F_low and F_high."""
    import pyarrow as pa

    rows = [flat(row) for row in audit.principles]
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: [row.get(name) for row in rows] for name in names}
    arrays = {name: pa.array(values) for name, values in columns.items()}
    return pa.table({name: a.cast(pa.float64()) if pa.types.is_null(a.type) else a for name, a in arrays.items()})


def flat(record: Record, prefix: str = "") -> dict[str, Any]:
    """A record's fields with dotted names; lists (reliability curves) are left to the JSON."""
    found: dict[str, Any] = {}
    for name in type(record).model_fields:
        value, key = getattr(record, name), f"{prefix}{name}"
        if isinstance(value, Estimate):
            found |= {
                key: value.value,
                f"{key}_n": value.n,
                f"{key}_prompts": value.prompts,
                **_ends(key, value.interval),
            }
        elif isinstance(value, Rate):
            found |= {key: value.share if value.n else None, f"{key}_count": value.count, f"{key}_n": value.n}
            found |= _ends(key, value.interval)
        elif isinstance(value, Record):
            found |= flat(value, f"{key}.")
        elif isinstance(value, Mapping):
            found |= {f"{key}.{inner}": item for inner, item in value.items()}
        elif not isinstance(value, tuple):
            found[key] = value
    return found


def _ends(key: str, interval: Interval | None) -> dict[str, float | None]:
    return {f"{key}_low": interval.low if interval else None, f"{key}_high": interval.high if interval else None}


def opinions_table(table: Table) -> pa.Table:
    """One row for each subject and comparison asked: both orders, the opinion, the label, and what it is of."""
    import numpy as np
    import pyarrow as pa

    cells, names = table.cells, table.corpus.reader.comparisons.values
    number_of = {place: number for number, place in table.corpus.place.items()}
    ids = [names[number_of[place]] for place in range(len(number_of))]
    columns: dict[str, pa.Array] = {"comparison_id": _coded(cells.comparison, ids)}
    columns["prompt_id"] = _coded(table.prompt, table.corpus.prompts.values)
    for i, name in enumerate(_SUBJECT):
        columns[name] = _coded(cells.subject, [key[i] for key in table.subjects])
    for name in ATTRIBUTES:
        columns[name] = _coded(cells.comparison, table.corpus.comparisons.attributes[name])
    for order, first in (("ab", True), ("ba", False)):
        rows = np.flatnonzero(table.judgments.first_a == first)
        outcome, judged = np.full(len(table), -1, dtype=np.int64), np.zeros(len(table), dtype=np.uint64)
        outcome[cells.of[rows]] = table.judgments.outcome[rows]
        judged[cells.of[rows]] = table.judgments.id[rows]
        columns[f"outcome_{order}"] = _coded(np.where(outcome < 0, len(OUTCOMES), outcome), [*OUTCOMES, None])
        texts = [f"{i:016x}" if o >= 0 else None for i, o in zip(judged.tolist(), outcome.tolist(), strict=True)]
        columns[f"judgment_{order}"] = pa.array(texts, type=pa.string())
    mass, masses = table.masses
    mean = np.divide(mass, masses, out=np.full(len(mass), np.nan), where=masses > 0)
    for name, values in (("p_ab", cells.p_ab), ("p_ba", cells.p_ba), ("p", cells.p), ("mass", mean)):
        columns[name] = pa.array(values, mask=~np.isfinite(values))
    columns["consistent"] = pa.array(cells.consistent, mask=~np.isfinite(cells.p))
    columns["label"] = pa.array(table.label.astype(np.int64), mask=table.label == UNLABELLED)
    columns["log_length_ratio"] = pa.array(table.log_ratio)
    for name, tokens in (
        ("prompt_tokens", table.judgments.prompt_tokens),
        ("completion_tokens", table.judgments.completion_tokens),
    ):
        columns[name] = pa.array(table.total(tokens).astype(np.int64))
    return pa.table(columns)


def _coded(codes: NDArray[np.int64], values: Sequence[str | None]) -> pa.Array:
    """Texts by their numbers, as a dictionary column."""
    import numpy as np
    import pyarrow as pa

    known = list(dict.fromkeys(value for value in values if value is not None))
    number = {value: i for i, value in enumerate(known)}
    places = np.array([-1 if value is None else number[value] for value in values] or [-1], dtype=np.int32)
    found = places[codes] if len(codes) else np.zeros(0, dtype=np.int32)
    texts = [value.encode("utf-8", "backslashreplace").decode() for value in known]  # no lone surrogates
    return pa.DictionaryArray.from_arrays(pa.array(found, mask=found < 0), pa.array(texts, type=pa.string()))
