"""How sure a judge may be: its p mended by labelled comparisons, on demand and never in the ledger.

The judge's p of the answer it read *first* becomes `logistic(slope * logit(p) + intercept)`. `temperature` fits the
slope alone (Guo et al. 2017; the temperature is 1 / slope), `platt` the intercept, too: what the first position is
worth to the judge. Said of positions, a calibration treats a and b alike. Both orders of a comparison count. The
targets are Platt's (1999, section 2.2): not 1 and 0 but (n + 1) / (n + 2) and 1 / (n + 2), so that a judge that is
right everywhere is not called certain. Checks are code, not judges: they stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from constitutional.errors import DataError
from constitutional.feedback.label.opinions import Reading
from constitutional.feedback.label.rules import logistic
from constitutional.feedback.label.truths import Truth, labels_digest
from constitutional.records import Judgment, Record
from constitutional.statistics import Interval, bracketed

Method = Literal["temperature", "platt"]

CALIBRATIONS = "calibrations.jsonl"
"""Where a label step keeps them."""

_NEAREST = 1e-6  # p of exactly 0 or 1 (votes) has no finite logit


class Calibration(Record):
    """What was fitted to one judge, from which labels. Losses are nats per judgment, on the labels it was fitted to."""

    judge: str
    method: Method
    slope: float
    slope_interval: Interval
    """95 %, clustered by prompt."""
    intercept: float
    intercept_interval: Interval | None
    judgments: int
    labels: str
    """Digest of the labelled comparisons."""
    loss_before: float
    loss_after: float

    def p_first(self, p: float) -> float:
        """The calibrated p of the answer read first."""
        return logistic(self.slope * _logit(p) + self.intercept)


def fit_calibrations(truths: Sequence[Truth], judgments: Iterable[Judgment], method: Method) -> tuple[Calibration, ...]:
    """One calibration for each judge that answered labelled comparisons, by the judges' names.

    Args:
        truths: the labels.
        judgments: of these comparisons, and maybe of others.
        method: what to fit.

    Raises:
        DataError: no judge gave a number for any of them, or one always gave the same.
    """
    known = {truth.comparison_id: truth for truth in truths}
    by_judge: dict[str, list[Judgment]] = {}
    for judgment in judgments:
        if judgment.comparison_id in known and judgment.p_a is not None and judgment.mode not in ("check", "applies"):
            by_judge.setdefault(judgment.judge, []).append(judgment)
    if not by_judge:
        raise DataError(f"label.calibration: no judge gave a number on any of the {len(known)} labelled comparisons")
    return tuple(_fit(judge, known, found, method) for judge, found in sorted(by_judge.items()))


def calibrated(calibrations: Iterable[Calibration]) -> Reading:
    """Reads judgments with the p of their judge's calibration; a judge without one, and a check, as stored."""
    by_judge = {calibration.judge: calibration for calibration in calibrations}

    def reading(judgment: Judgment) -> float | None:
        calibration = by_judge.get(judgment.judge)
        if judgment.p_a is None or calibration is None or judgment.mode in ("check", "applies"):
            return judgment.p_a
        return _turned(judgment, calibration.p_first(_turned(judgment, judgment.p_a)))

    return reading


def calibration_lines(calibrations: Iterable[Calibration]) -> list[str]:
    """One line of text a judge."""
    lines = []
    for c in calibrations:
        between = c.intercept_interval
        shift = f", intercept {c.intercept:+.2f} {bracketed(between, signed=True)}" if between else ""
        lines.append(
            f"{c.judge}: {c.method} slope {c.slope:.2f} {bracketed(c.slope_interval)}{shift}"
            + f", loss {c.loss_before:.3f} -> {c.loss_after:.3f} nats on {c.judgments} judgments (labels {c.labels})"
        )
    return lines


def _fit(judge: str, known: Mapping[str, Truth], judgments: Sequence[Judgment], method: Method) -> Calibration:
    from constitutional.statistics.logistic import fit_logistic

    judgments = sorted(judgments, key=lambda j: j.id)  # the sums' rounding shall not depend on their order
    first = [known[j.comparison_id].a_better == (j.order == "ab") for j in judgments]
    logits = [_logit(_turned(j, j.p_a or 0.0)) for j in judgments]
    ones, zeros = sum(first), len(first) - sum(first)
    targets = [(ones + 1) / (ones + 2) if better else 1 / (zeros + 2) for better in first]
    x = [[z, 1.0] if method == "platt" else [z] for z in logits]
    fit = fit_logistic(x, targets, clusters=[known[j.comparison_id].prompt_id for j in judgments])
    if not fit.converged:
        raise DataError(
            f"label.calibration: nothing can be fitted to the {len(judgments)} judgments of {judge} on labelled "
            f"comparisons: {fit.problem}"
        )
    slope, intercept = fit.coefficients if method == "platt" else (*fit.coefficients, 0.0)
    return Calibration(
        judge=judge,
        method=method,
        slope=slope,
        slope_interval=fit.interval(0),
        intercept=intercept,
        intercept_interval=fit.interval(1) if method == "platt" else None,
        judgments=len(judgments),
        labels=labels_digest(known.values()),
        loss_before=_loss(logits, first),
        loss_after=_loss([slope * z + intercept for z in logits], first),
    )


def _loss(logits: Iterable[float], outcomes: Iterable[bool]) -> float:
    """Mean negative log-likelihood, in nats."""
    losses = [-math.log(max(logistic(z if y else -z), 1e-300)) for z, y in zip(logits, outcomes, strict=True)]
    return math.fsum(losses) / len(losses)


def _turned(judgment: Judgment, p: float) -> float:
    """From the comparison's frame to that of the order, or back."""
    return p if judgment.order == "ab" else 1 - p


def _logit(p: float) -> float:
    near = min(max(p, _NEAREST), 1 - _NEAREST)
    return math.log(near / (1 - near))
