"""The audit as a page shows it: rows with names, matrices with links, and the comparisons that the links lead to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from constitutional.audit.charts import Reliability, reliability_chart
from constitutional.audit.measures.audit import audit_table
from constitutional.audit.measures.contested import Contest, Contested, contested, contested_comparisons
from constitutional.audit.measures.contested import shown_principles as shown
from constitutional.audit.measures.corpus import load_corpus
from constitutional.audit.measures.records import (
    Audit,
    Estimate,
    Figures,
    LabelFit,
    Panel,
    PrincipleAudit,
    PrinciplePair,
    Slice,
)
from constitutional.audit.measures.resample import RESAMPLES
from constitutional.audit.measures.table import Table, make_table
from constitutional.records import Comparison
from constitutional.statistics import Rate

SLICES = 40
"""Rows of a slice that a page shows; JSON has all."""


@dataclass(frozen=True)
class ShownAudit:
    """An audit, its contested cells, and the text of the comparisons they name."""

    audit: Audit
    cells: tuple[Contested, ...]
    comparisons: Mapping[str, Comparison]

    def figures(self) -> dict[str, Any]:
        """What the page shows in numbers, for JSON."""
        return {
            "audit": self.audit.model_dump(mode="json"),
            "contested": [cell.model_dump(mode="json") for cell in self.cells],
        }


@dataclass(frozen=True)
class Named:
    """A row of a table: what it is of, and the principle's audit or a whole judge's figures."""

    title: str
    ref: str
    note: str
    """By which judge, where there are several; of which text."""
    row: PrincipleAudit | None
    figures: Figures
    labels: LabelFit | None


@dataclass(frozen=True)
class Cell:
    """Two principles, or one and its other order: `figure` is the share that differs."""

    anchor: str
    one: str
    other: str
    figure: Estimate | Rate | None
    pair: PrinciplePair | None
    rows: tuple[Contest, ...]

    @property
    def share(self) -> float | None:
        """How often the two differ."""
        if isinstance(self.figure, Rate):
            return self.figure.share if self.figure.n else None
        return self.figure.value if self.figure is not None else None

    @property
    def heat(self) -> int:
        """0 to 10, for its colour: 10 is a share of one half or more."""
        return min(10, round(20 * (self.share or 0.0)))


@dataclass(frozen=True)
class Matrix:
    """A panel: a line of cells for each principle, a link in each to what it is made of."""

    judge: str
    panel: Panel
    heads: tuple[str, ...]
    lines: tuple[tuple[Cell, ...], ...]

    @property
    def paired(self) -> bool:
        """Whether any two principles were asked of the same comparison."""
        return bool(self.panel.pairs)

    @property
    def drills(self) -> list[tuple[str, list[Cell]]]:
        """Each cell once, under the first of its two principles; those with nothing contested left out."""
        found = [(head, [c for c in line[k:] if c.rows]) for k, (head, line) in enumerate(self._rows())]
        return [(head, cells) for head, cells in found if cells]

    def _rows(self) -> list[tuple[str, tuple[Cell, ...]]]:
        return list(zip(self.heads, self.lines, strict=True))


def show_audit(
    runs: Sequence[Path],
    *,
    labels: Sequence[Path] = (),
    by: Sequence[str] = (),
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> ShownAudit:
    """The audit of run folders with the comparisons behind it; arguments and errors are those of `audit_run`."""
    table = make_table(load_corpus(runs, labels))
    return show_table(table, audit_table(table, by=by, resamples=resamples, seed=seed))


def show_table(table: Table, audit: Audit) -> ShownAudit:
    """The same from an audit that was made. Raises RunError where a file of a run is damaged."""
    cells = contested(table, audit)
    return ShownAudit(audit=audit, cells=cells, comparisons=contested_comparisons(table, cells))


def audit_values(found: ShownAudit) -> dict[str, Any]:
    """Values of the audit's template."""
    audit = found.audit
    titles = {row.principle: row.title for row in audit.principles if row.title}
    rows = _named(audit)
    matrices = [_matrix(audit, found.cells, k) for k in range(len(audit.panels))]
    return {
        "audit": audit,
        "judges": judge_names(audit),
        "rows": rows,
        "labelled": [row for row in rows if row.labels is not None],
        "worth": [row for row in rows if row.row is not None],
        "curves": _curves(rows),
        "matrices": [matrix for matrix in matrices if len(matrix.heads)],
        "ref_titles": titles,
        "slices": _slices(audit),
        "anchors": {key: f"c{n}" for n, key in enumerate(found.comparisons, start=1)},
        "contested": found.comparisons,
    }


def judge_names(audit: Audit) -> list[str]:
    """Judges in their modes; principles that are code have none."""
    return list(dict.fromkeys(f"{a.judge} ({a.mode})" for a in audit.principles if a.mode not in ("check", "applies")))


def _named(audit: Audit) -> list[Named]:
    judges = judge_names(audit)
    found = []
    for row in audit.principles:
        judge = f"{row.judge} ({row.mode})"
        notes = [f"judge {judges.index(judge) + 1}"] if len(judges) > 1 and judge in judges else []
        notes += ["by its check, not by the judge"] if row.mode == "check" else []
        notes += [] if row.current else ["an earlier text"]
        found.append(Named(row.title, row.principle, ", ".join(notes), row, row.figures, row.labels))
    for k, panel in enumerate(audit.panels, start=1):
        note = f"judge {k}" if len(audit.panels) > 1 else ""
        found.append(Named("All", "all", note, None, panel.figures, panel.labels))
    return found


def _curves(rows: Sequence[Named]) -> list[Reliability]:
    """Whole judges first, then their principles."""
    fitted = [(named, named.labels.reliability) for named in rows if named.labels is not None]
    ordered = [f for f in fitted if f[0].row is None] + [f for f in fitted if f[0].row is not None]
    return [
        reliability_chart(bins, " · ".join(filter(None, (named.title or named.ref, named.note))))
        for named, bins in ordered
        if bins
    ]


def _matrix(audit: Audit, cells: Sequence[Contested], number: int) -> Matrix:
    panel = audit.panels[number]
    heads = shown(panel)
    pairs = {frozenset((pair.one, pair.other)): pair for pair in panel.pairs}
    by_pair = {frozenset((c.one, c.other)): c for c in cells if c.panel == number}
    lines = []
    for i, one in enumerate(heads):
        line = []
        for j, other in enumerate(heads):
            key = frozenset((one, other))
            pair, cell = pairs.get(key), by_pair.get(key)
            figure = pair.conflict if pair else cell.differ if cell else None
            line.append(
                Cell(
                    anchor=f"m{number + 1}-{min(i, j) + 1}-{max(i, j) + 1}",
                    one=one,
                    other=other,
                    figure=figure,
                    pair=pair,
                    rows=cell.rows if cell else (),
                )
            )
        lines.append(tuple(line))
    judge = f"{panel.judge} ({panel.mode})" if panel.judge else "checks"
    return Matrix(judge=judge, panel=panel, heads=heads, lines=tuple(lines))


def _slices(audit: Audit) -> list[tuple[str, list[Slice], int]]:
    """Each column, its largest slices, and how many more there are."""
    found = []
    for column in dict.fromkeys(one.column for one in audit.slices):
        mine = [one for one in audit.slices if one.column == column]
        mine = sorted(mine, key=lambda one: (one.principle or "", -one.figures.judgments))
        found.append((column, mine[:SLICES], max(0, len(mine) - SLICES)))
    return found
