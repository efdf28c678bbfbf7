"""The weights of the rule `calibrated`: how much each principle's opinion tells of the answer that labels call better.

Logistic regression without intercept (a and b are alike) of "a is better" on the opinions 2p - 1, of which one that was
not given is 0. The penalty is chosen by cross-validation over prompts, and what the weights are worth is measured the
same way, on prompts they have not seen (nested: each fold chooses its own penalty).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from constitutional.errors import DataError
from constitutional.feedback.label.opinions import CLAMP, Clamp, Reading, as_stored, clamped, opinions
from constitutional.feedback.label.rules import logistic, signal
from constitutional.feedback.label.truths import Truth, labels_digest
from constitutional.records import Judgment, Record, seed_for
from constitutional.statistics import Interval, Rate, bracketed, rate, with_interval

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from constitutional.statistics.logistic import LogisticFit

WEIGHTS = "weights.json"
"""Where a label step keeps them."""

PENALTIES = (0.01, 0.1, 1.0, 10.0, 100.0)
FOLDS = 5
_SURE = 1e-6


class PrincipleWeight(Record):
    """One principle's weight with its 95 % interval, clustered by prompt, and the comparisons it had an opinion on.

    A principle without one has weight 0 and no interval: it takes no part in labels.
    """

    principle: str
    weight: float
    interval: Interval | None
    n: int


class FittedWeights(Record):
    """What was fitted, from which labels, and how it does on prompts it has not seen, beside the rule `mean`.

    Losses are nats per comparison.
    """

    labels: str
    """Digest of the labelled comparisons."""
    n: int
    prompts: int
    unheard: int
    """Labelled comparisons without any opinion; they are left out."""
    l2: float
    weights: tuple[PrincipleWeight, ...]
    accuracy: Rate
    loss: float
    mean_accuracy: Rate
    mean_loss: float

    @property
    def by_ref(self) -> dict[str, float]:
        """The weights by `id@version`, as the rule takes them."""
        return {row.principle: row.weight for row in self.weights}


def fit_weights(
    truths: Sequence[Truth],
    judgments: Iterable[Judgment],
    refs: Sequence[str],
    reading: Reading = as_stored,
    clamp: Clamp = CLAMP,
) -> FittedWeights:
    """Fits one weight a principle to labelled comparisons.

    Args:
        truths: the labels.
        judgments: of these comparisons, and maybe of others.
        refs: the principles, `id@version`.
        reading: the p a judgment counts with, where it is not the ledger's own.
        clamp: ends of the opinions of a judge that reasons first: those that the weights will multiply.

    Raises:
        DataError: fewer than two prompts have a labelled comparison that any of these principles judged in both orders.
    """
    import numpy as np

    truths = sorted(truths, key=lambda truth: (truth.prompt_id, truth.comparison_id))
    column = {ref: i for i, ref in enumerate(refs)}
    said = opinions(judgments, reading)
    rows: list[list[float]] = []
    p_mean: list[float] = []
    y: list[float] = []
    groups: list[str] = []
    counts = [0] * len(refs)
    for truth in truths:
        heard = [clamped(o, clamp) for o in said.get(truth.comparison_id, []) if o.principle in column]
        if heard:
            rows.append([0.0] * len(refs))
            for opinion in heard:
                rows[-1][column[opinion.principle]] = signal(opinion.p_a)
                counts[column[opinion.principle]] += 1
            p_mean.append(math.fsum(o.p_a for o in heard) / len(heard))
            y.append(float(truth.a_better))
            groups.append(truth.prompt_id)
    if len(set(groups)) < 2:
        raise DataError(
            f"label.rule: calibrated weights need labelled comparisons of 2 prompts or more, judged in both orders "
            f"({len(set(groups))} of {len(truths)} labelled comparisons)"
        )
    table = _Table(np.array(rows), np.array(y), groups)
    l2 = table.best_penalty()
    fit = table.fit(l2)
    p = table.unseen()
    return FittedWeights(
        labels=labels_digest(truths),
        n=len(rows),
        prompts=len(set(groups)),
        unheard=len(truths) - len(rows),
        l2=l2,
        weights=tuple(
            PrincipleWeight(
                principle=ref,
                weight=fit.coefficients[i] if counts[i] else 0.0,
                interval=fit.interval(i) if counts[i] else None,
                n=counts[i],
            )
            for ref, i in column.items()
        ),
        accuracy=_right(p, y),
        loss=_loss(p, y),
        mean_accuracy=_right(p_mean, y),
        mean_loss=_loss(p_mean, y),
    )


def weight_lines(found: FittedWeights) -> list[str]:
    """The fit as lines of text."""
    lines = [
        f"weights fitted to {found.n} labelled comparisons of {found.prompts} prompts (labels {found.labels}), l2 "
        f"{found.l2:g}",
        f"on unseen prompts: accuracy {with_interval(found.accuracy)}, loss {found.loss:.3f} nats; rule mean: "
        f"{with_interval(found.mean_accuracy)}, {found.mean_loss:.3f}",
    ]
    for row in found.weights:
        said = f"{row.weight:+.2f} {bracketed(row.interval, signed=True)}" if row.interval else "none: no label tells"
        lines.append(f"  {row.principle}: {said} (n {row.n})")
    return lines + ([f"{found.unheard} labelled comparisons have no opinion"] if found.unheard else [])


class _Table:
    """Opinions and labels, one row a comparison."""

    def __init__(self, x: NDArray[np.float64], y: NDArray[np.float64], groups: Sequence[str]) -> None:
        self.x, self.y, self.groups = x, y, groups

    def fit(self, l2: float) -> LogisticFit:
        """The coefficients. With a penalty there always are some; the interval is one of the penalised estimate."""
        from constitutional.statistics.logistic import fit_logistic

        fitted = fit_logistic(self.x, self.y, l2=l2, clusters=self.groups)
        if not fitted.converged:  # too few rows for a clustered covariance
            fitted = fit_logistic(self.x, self.y, l2=l2)
        if not fitted.converged:
            raise DataError(f"label.rule: no weights can be fitted: {fitted.problem}")
        return fitted

    def best_penalty(self) -> float:
        """The penalty of least loss on left-out prompts; of equals, the strongest. 1 where there is too little."""
        folds = self._folds()
        if len(folds) < 2:
            return 1.0
        losses = {l2: _loss(*self._left_out(folds, l2)) for l2 in PENALTIES}
        return min(losses, key=lambda l2: (round(losses[l2], 9), -l2))

    def unseen(self) -> list[float]:
        """The p of each row by weights fitted, and a penalty chosen, without its prompt; in the rows' order."""
        import numpy as np

        p = np.empty(len(self.y))
        for inside, outside in self._folds():
            rest = self._part(inside)
            p[outside] = _p(rest.fit(rest.best_penalty()), self.x[outside])
        return [float(value) for value in p]

    def _left_out(self, folds: Sequence[tuple[Any, Any]], l2: float) -> tuple[list[float], list[float]]:
        p: list[float] = []
        y: list[float] = []
        for inside, outside in folds:
            p += _p(self._part(inside).fit(l2), self.x[outside])
            y += list(self.y[outside])
        return p, y

    def _part(self, rows: Any) -> _Table:
        return _Table(self.x[rows], self.y[rows], [self.groups[i] for i in rows])

    def _folds(self) -> list[tuple[Any, Any]]:
        """Rows inside and outside of each fold. A prompt's fold depends on the prompts, not on the rows' order."""
        import numpy as np

        names = sorted(set(self.groups), key=lambda name: (seed_for(0, "fold", name), name))
        number = {name: i % FOLDS for i, name in enumerate(names)}
        fold = np.array([number[name] for name in self.groups])
        return [(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(min(FOLDS, len(names)))]


def _p(fit: LogisticFit, x: NDArray[np.float64]) -> list[float]:
    return [logistic(float(z)) for z in x @ fit.coefficients]


def _right(p: Sequence[float], y: Sequence[float]) -> Rate:
    """How often the preferred answer is the better one; where neither is preferred, it is not."""
    return rate(sum((value > 0.5) == bool(truth) and value != 0.5 for value, truth in zip(p, y, strict=True)), len(y))


def _loss(p: Sequence[float], y: Sequence[float]) -> float:
    kept = [min(max(value if truth else 1 - value, _SURE), 1.0) for value, truth in zip(p, y, strict=True)]
    return -math.fsum(math.log(value) for value in kept) / len(kept)
