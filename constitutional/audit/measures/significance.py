"""Tests of every principle, corrected for there being many, and what they could have found."""

from __future__ import annotations

from collections.abc import Sequence

from constitutional.audit.measures.cells import sides
from constitutional.audit.measures.records import Detectable, LabelFit, LengthEffect, PValue, PValues
from constitutional.audit.measures.table import Table
from constitutional.statistics.multiple import benjamini_hochberg, minimum_detectable_effect


def principle_tests(
    table: Table, subjects: int, lengths: Sequence[LengthEffect], labels: Sequence[LabelFit | None]
) -> list[PValues]:
    """The three tests of each subject; each kind is adjusted over all subjects that could be tested."""
    positions = [_position(table, s) for s in range(subjects)]
    slopes = [(e.p_value, e.slope.n) if e.p_value is not None else None for e in lengths]
    chances = [_two_sided(f.accuracy.count, f.accuracy.n) if f is not None else None for f in labels]
    kinds = [_adjusted(kind) for kind in (positions, slopes, chances)]
    return [PValues(position=p, length=s, chance=c) for p, s, c in zip(*kinds, strict=True)]


def detectable(test: str, n: int) -> tuple[Detectable, ...]:
    """The least distance from one half that a share of n is found at."""
    effect = minimum_detectable_effect(n)
    return () if effect is None else (Detectable(test=test, n=n, effect=effect),)


def _position(table: Table, subject: int) -> tuple[float, int] | None:
    """Of comparisons in which the order decides, how many go to the answer read first: half of them, by chance."""
    rows = table.cells.subject == subject
    ab, ba = sides(table.cells.p_ab[rows]), sides(table.cells.p_ba[rows])
    first, second = int(((ab > 0) & (ba < 0)).sum()), int(((ab < 0) & (ba > 0)).sum())
    return _two_sided(first, first + second)


def _two_sided(count: int, n: int) -> tuple[float, int] | None:
    from scipy.stats import binomtest

    return (float(binomtest(count, n, 0.5).pvalue), n) if n else None


def _adjusted(found: Sequence[tuple[float, int] | None]) -> list[PValue | None]:
    adjusted = iter(benjamini_hochberg([min(item[0], 1.0) for item in found if item is not None]))
    return [None if item is None else PValue(p=min(item[0], 1.0), adjusted=next(adjusted), n=item[1]) for item in found]
