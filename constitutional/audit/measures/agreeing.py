"""Opinions against a reference: labels of people and authors, or the label the other principles make."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from constitutional.audit.measures.records import Agreeing, CalibrationBin, LabelFit
from constitutional.audit.measures.resample import Bootstrap, estimate, sums_by
from constitutional.audit.measures.table import UNLABELLED, Table
from constitutional.statistics import rate
from constitutional.statistics.agreement import kappa_of_table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    Numbers = NDArray[np.int64]

BINS = 10
"""Of equal width, over confidences from 1/2 to 1."""


def agreeing(
    table: Table, rows: Numbers, code: Numbers, codes: int, reference: Numbers, bootstrap: Bootstrap
) -> list[Agreeing | None]:
    """Agreement with a reference for each code; None for a code without any row that has one.

    Args:
        table: the opinions.
        rows: rows of the table.
        code: what each belongs to.
        codes: how many codes there are.
        reference: of each row, 1 for a and -1 for b; rows with another number have none and are left out.
        bootstrap: for the intervals.
    """
    import numpy as np

    known = np.abs(reference) == 1
    rows, code, reference = rows[known], code[known], reference[known]
    side = table.cells.side[rows]
    columns = [(side == reference), (side == -reference), (side == 0)]
    groups = sums_by(table.prompt[rows], code, codes, [column.astype(np.float64) for column in columns])
    draws = bootstrap.replicate(groups, _metrics)
    found: list[Agreeing | None] = []
    for group, drawn in zip(groups, draws, strict=True):
        total = group.total
        agree, disagree, neither = (int(value) for value in total[0])
        n, sided = agree + disagree + neither, agree + disagree
        if not n:
            found.append(None)
            continue
        values = _metrics(total)[0]
        prompts = len(group.prompts)
        sided_prompts = int(np.count_nonzero(group.values[:, 0] + group.values[:, 1]))
        found.append(
            Agreeing(
                agree=agree,
                disagree=disagree,
                not_applicable=neither,
                agreement=estimate(float(values[0]), n, prompts, drawn[:, 0]),
                relevance=estimate(float(values[1]), n, prompts, drawn[:, 1]),
                strength=estimate(float(values[2]), n, prompts, drawn[:, 2], low=-1.0),
                kappa=estimate(float(values[3]), sided, sided_prompts, drawn[:, 3], low=-1.0),
            )
        )
    return found


def _metrics(t: Array) -> Array:
    """Agreement, relevance, strength and kappa (`statistics.agreement.principle_metrics`) of many counts at once."""
    import numpy as np

    agree, disagree, neither = t.T
    sided = agree + disagree
    n = sided + neither
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.stack([agree / n, sided / n, (agree - disagree) / n, (agree - disagree) / sided], axis=1)


def label_fits(table: Table, rows: Numbers, code: Numbers, codes: int, bootstrap: Bootstrap) -> list[LabelFit | None]:
    """How opinions do against labels, for each code; None for one without a label."""
    import numpy as np

    label = table.label[rows].astype(np.int64)
    metrics = agreeing(table, rows, code, codes, np.where(label == UNLABELLED, 0, label), bootstrap)
    known = np.abs(label) == 1
    rows, code, label = rows[known], code[known], label[known]
    side = table.cells.side[rows]
    groups = sums_by(table.prompt[rows], code, codes, _columns(table.cells.p[rows], side, label))
    draws = bootstrap.replicate(groups, _fit)
    found: list[LabelFit | None] = []
    for i, (metric, group, drawn) in enumerate(zip(metrics, groups, draws, strict=True)):
        if metric is None:
            found.append(None)
            continue
        sided = metric.agree + metric.disagree
        prompts = int(np.count_nonzero(group.values[:, :4].sum(axis=1)))
        values = _fit(group.total)[0]
        found.append(
            LabelFit(
                labelled=sided + metric.not_applicable,
                sources=_sources(table, rows[code == i]),
                accuracy=rate(metric.agree, sided),
                right_of_all=rate(metric.agree, sided + metric.not_applicable),
                metrics=metric,
                reliability=_curve(group.total[0, 4:]),
                expected_calibration_error=estimate(float(values[0]), sided, prompts, drawn[:, 0]),
                cohen_kappa=estimate(float(values[1]), sided, prompts, drawn[:, 1], low=-1.0),
            )
        )
    return found


def _columns(p: Array, side: Numbers, label: Numbers) -> list[Array]:
    """Four counts of (side, label), then number, confidence and right answers of each bin."""
    import numpy as np

    columns = [(side == s) & (label == t) for s in (1, -1) for t in (1, -1)]
    confidence = np.abs(np.nan_to_num(p, nan=0.5) - 0.5) + 0.5
    place = np.clip(np.ceil((confidence - 0.5) * 2 * BINS - 1e-9).astype(np.int64) - 1, 0, BINS - 1)
    for b in range(BINS):
        here = (side != 0) & (place == b)
        columns += [here, here * confidence, here & (side == label)]
    return [np.asarray(column, dtype=np.float64) for column in columns]


def _fit(t: Array) -> Array:
    """Expected calibration error and Cohen's kappa."""
    import numpy as np

    n, confidence, right = t[:, 4::3], t[:, 5::3], t[:, 6::3]
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.abs(right - confidence).sum(axis=1) / n.sum(axis=1)
    return np.stack([error, kappa_of_table(t[:, :4].reshape(-1, 2, 2))], axis=1)


def _curve(sums: Array) -> tuple[CalibrationBin, ...]:
    bins = []
    for b in range(BINS):
        n, confidence, right = sums[3 * b : 3 * b + 3]
        if n:
            low = 0.5 + b / (2 * BINS)
            bins.append(
                CalibrationBin(
                    low=low,
                    high=low + 0.5 / BINS,
                    mean_confidence=float(confidence / n),
                    right=rate(int(right), int(n)),
                )
            )
    return tuple(bins)


def _sources(table: Table, rows: Numbers) -> dict[str, int]:
    """Labelled rows by who labelled them."""
    numbers = {place: number for number, place in table.corpus.place.items()} if len(rows) else {}
    counts: Counter[str] = Counter()
    said = table.corpus.labels.said
    for row in rows.tolist():
        number, principle = numbers[int(table.cells.comparison[row])], table.subjects[int(table.cells.subject[row])][0]
        counts.update(list(said.get((number, principle)) or said.get((number, None)) or {}))
    return dict(sorted(counts.items()))
