"""The same figures for parts of the judgments: by step, tag, kind, source, or any column."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from constitutional.audit.measures.corpus import ATTRIBUTES
from constitutional.audit.measures.figures import figures
from constitutional.audit.measures.records import Slice
from constitutional.audit.measures.resample import Bootstrap
from constitutional.audit.measures.table import UNLABELLED, Table
from constitutional.errors import ConfigError, nearest, one_line
from constitutional.statistics import rate

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ALWAYS = ("step", "kind", "source", "tag", "principle_tag")
"""Columns that every audit is sliced by; those with one value alone are left out."""

COLUMNS = (*ATTRIBUTES, "tag", "principle_tag", "principle", "version", "judge", "mode", "label", "longer", "prompt")
NONE = "(none)"
MOST = 200
"""Values of a column that an audit is sliced by at most."""


def slices(table: Table, by: Sequence[str], tags: dict[str, tuple[str, ...]], bootstrap: Bootstrap) -> list[Slice]:
    """Figures by every value of the columns `ALWAYS`, all principles of a judge together, and of `by`, each also alone.

    Args:
        table: the opinions.
        by: columns asked for.
        tags: of principles, by digest.
        bootstrap: for the intervals.

    Raises:
        ConfigError: no such column, or one with more than `MOST` values.
    """
    found: list[Slice] = []
    check_columns(by)
    for column in dict.fromkeys((*by, *ALWAYS)):
        rows, code, values = column_values(table, column, tags)
        if column in by and len(values) > MOST:
            raise ConfigError(f"--by {column}: {len(values)} values, more than {MOST}")
        if column in by or 1 < len(values) <= MOST:
            found += _sliced(table, column, rows, code, values, False, bootstrap)
        if column in by:
            found += _sliced(table, column, rows, code, values, True, bootstrap)
    return found


def check_columns(by: Sequence[str]) -> None:
    """Refuses a column that there is not, before anything is read. Raises ConfigError."""
    for column in by:
        if column not in COLUMNS:
            raise ConfigError(f"--by: no column '{one_line(column)}'{nearest(column, COLUMNS)}")


def column_values(
    table: Table, column: str, tags: dict[str, tuple[str, ...]]
) -> tuple[NDArray[np.int64], NDArray[np.int64], list[str]]:
    """Rows, the number of the value each has, and the values; a row with several tags stands there several times."""
    import numpy as np

    if column in ("tag", "principle_tag"):
        several = table.corpus.comparisons.tags if column == "tag" else [tags.get(k[1], ()) for k in table.subjects]
        place = table.cells.comparison if column == "tag" else table.cells.subject
        return _expanded(place, several)
    one, place = _single(table, column)
    values = sorted({value or NONE for value in one})
    number = {value: i for i, value in enumerate(values)}
    numbers = np.array([number[value or NONE] for value in one] or [0], dtype=np.int64)
    code = numbers[place]
    return np.arange(len(table)), code, values


def _single(table: Table, column: str) -> tuple[Sequence[str | None], NDArray[np.int64]]:
    """The values of a column that has one a row, and where each row finds its own."""
    import numpy as np

    if column in ATTRIBUTES:
        return table.corpus.comparisons.attributes[column], table.cells.comparison
    if column == "label":
        names = {1: "a", -1: "b", 0: "tie", UNLABELLED: None}
        return [names[k] for k in (-1, 0, 1, UNLABELLED)], table.label.astype(np.int64) + 1
    if column == "longer":
        return ["b", "equal", "a"], np.sign(table.log_ratio).astype(np.int64) + 1
    if column == "prompt":
        return table.corpus.prompts.values, table.prompt
    of = {
        "principle": [key[0] for key in table.subjects],
        "version": [key[1] for key in table.subjects],
        "judge": [key[2] for key in table.subjects],
        "mode": [key[3] for key in table.subjects],
    }
    return of[column], table.cells.subject


def _expanded(
    place: NDArray[np.int64], several: Sequence[Sequence[str]]
) -> tuple[NDArray[np.int64], NDArray[np.int64], list[str]]:
    import numpy as np

    values = sorted({value for found in several for value in found or (NONE,)})
    number = {value: i for i, value in enumerate(values)}
    counts = np.array([len(found) or 1 for found in several] or [1], dtype=np.int64)
    flat = np.array([number[value] for found in several for value in found or (NONE,)] or [0], dtype=np.int64)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    times = counts[place]
    rows = np.repeat(np.arange(len(place)), times)
    within = np.arange(len(rows)) - np.repeat(np.cumsum(times) - times, times)
    return rows, flat[starts[place[rows]] + within] if len(rows) else rows, values


def _sliced(
    table: Table,
    column: str,
    rows: NDArray[np.int64],
    code: NDArray[np.int64],
    values: Sequence[str],
    alone: bool,
    bootstrap: Bootstrap,
) -> list[Slice]:
    """One slice a value and judge, or a value, judge and principle. Checks are no judge's, and stand by themselves."""
    import numpy as np

    keys = [(key[2] if key[3] != "check" else "checks", key[3], key[0] if alone else None) for key in table.subjects]
    groups = sorted(set(keys), key=lambda key: (key[0], key[1], key[2] or ""))
    group = np.array([groups.index(key) for key in keys] or [0], dtype=np.int64)
    wanted = code * max(len(groups), 1) + group[table.cells.subject[rows]]
    present, dense = np.unique(wanted, return_inverse=True)
    label, side = table.label[rows].astype(np.int64), table.cells.side[rows]
    sided = (np.abs(label) == 1) & (side != 0)
    n = np.bincount(dense, weights=sided, minlength=len(present))
    right = np.bincount(dense, weights=sided & (label == side), minlength=len(present))
    return [
        Slice(
            column=column,
            value=values[int(which) // len(groups)],
            judge=groups[int(which) % len(groups)][0],
            mode=groups[int(which) % len(groups)][1],
            principle=groups[int(which) % len(groups)][2],
            figures=made,
            accuracy=rate(int(right[i]), int(n[i])),
        )
        for i, (which, made) in enumerate(
            zip(present, figures(table, rows, dense, len(present), bootstrap), strict=True)
        )
    ]
