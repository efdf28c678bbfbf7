"""How far a preference model agrees with labels it was not trained on: accuracy and calibration, whole and in parts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from constitutional.statistics import expected_calibration_error, wilson
from constitutional.training.rows import Agreement, NamedAgreement


def agreement(margins: Sequence[float], probabilities: Sequence[float]) -> Agreement:
    """Accuracy and calibration of margins against soft labels.

    A margin of exactly zero prefers neither side and counts as wrong. Calibration is taken over both framings of each
    row (chosen over rejected and the reverse): in the first alone every label is at least 0.5, and a model that knows
    nothing would look miscalibrated.

    Args:
        margins: score of chosen minus score of rejected, log-odds.
        probabilities: the labels' probability of chosen.
    """
    decided = [margin > 0 for margin, p in zip(margins, probabilities, strict=True) if p != 0.5]
    predicted = [1 / (1 + math.exp(-max(-700.0, margin))) for margin in margins]
    both = [*predicted, *(1 - p for p in predicted)]
    labels = [*probabilities, *(1 - p for p in probabilities)]
    return Agreement(
        n=len(decided),
        correct=sum(decided),
        accuracy=sum(decided) / len(decided) if decided else None,
        interval=wilson(sum(decided), len(decided)),
        calibration_error=expected_calibration_error(both, labels) if both else None,
    )


def agreement_by(
    names: Iterable[str], margins: Sequence[float], probabilities: Sequence[float]
) -> tuple[NamedAgreement, ...]:
    """The agreement of each group of rows, by the name each row has, in alphabetical order."""
    groups: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        groups.setdefault(name, []).append(i)
    return tuple(
        NamedAgreement(name=name, agreement=agreement([margins[i] for i in rows], [probabilities[i] for i in rows]))
        for name, rows in sorted(groups.items())
    )
