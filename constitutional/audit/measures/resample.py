"""One bootstrap for all figures: whole prompts are drawn, and every figure is a function of sums over prompts.

Drawing the same prompts for every figure costs one pass over the data for all of them (Efron 1979; clusters: Field and
Welsh 2007, section 2). Percentile intervals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from constitutional.audit.measures.records import Estimate
from constitutional.statistics import Interval
from constitutional.statistics.clustered import expanded_confidence
from constitutional.statistics.intervals import score_interval

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    Numbers = NDArray[np.int64]

RESAMPLES = 1000
CONFIDENCE = 0.95
_BLOCK = 8_000_000  # draws held at a time: 64 MB
_KEPT = 50_000_000
"""Draws that are kept (100 MB) rather than made again for every table; a prompt is drawn less than 65,536 times."""

_WIDE = 16_000_000
"""Sums that are held side by side: 128 MB."""

_FLAT = 1e-12


@dataclass(frozen=True)
class Sums:
    """Sums of some observations over prompts: `values[i]` are those of prompt `prompts[i]`."""

    prompts: Numbers
    values: Array

    @property
    def total(self) -> Array:
        """Over all prompts, one row."""
        found: Array = self.values.sum(axis=0, keepdims=True)
        return found


def sums_by(prompt: Numbers, code: Numbers, codes: int, columns: Sequence[Array]) -> list[Sums]:
    """Sums of columns over prompts, for the observations of each code from 0 to `codes` - 1."""
    import numpy as np

    if not len(prompt):
        return [Sums(np.zeros(0, dtype=np.int64), np.zeros((0, len(columns))))] * codes
    width = int(prompt.max()) + 1
    keys, where = np.unique(code.astype(np.int64) * width + prompt, return_inverse=True)
    table: Array = np.stack([np.bincount(where, column, len(keys)).astype(np.float64) for column in columns], axis=1)
    ends = np.searchsorted(keys, np.arange(codes + 1, dtype=np.int64) * width)
    return [Sums(keys[low:high] % width, table[low:high]) for low, high in pairwise(ends.tolist())]


Statistic = Callable[["Array"], "Array"]
"""From totals [draws, columns] to figures [draws, figures]; NaN where a figure is over nothing."""


class Bootstrap:
    """The draws of an audit: equal settings draw the same prompts every time."""

    def __init__(self, prompts: int, resamples: int = RESAMPLES, seed: int = 0) -> None:
        self.prompts, self.resamples, self.seed = prompts, resamples, seed
        self._kept: list[NDArray[np.uint16]] | None = [] if prompts * resamples <= _KEPT else None

    def _draws(self) -> Iterator[Array]:
        """How often each prompt was drawn: blocks of [draws, prompts]."""
        import numpy as np

        if self._kept is None:
            yield from self._drawn()
            return
        if not self._kept:
            self._kept = [block.astype(np.uint16) for block in self._drawn()]
        for block in self._kept:
            yield block.astype(np.float64)

    def _drawn(self) -> Iterator[Array]:
        import numpy as np

        rng = np.random.default_rng(self.seed)
        rows = max(1, min(self.resamples, _BLOCK // max(self.prompts, 1)))
        for start in range(0, self.resamples, rows):
            n = min(rows, self.resamples - start)
            drawn = rng.integers(0, self.prompts, (n, self.prompts))
            drawn += (np.arange(n) * self.prompts)[:, None]
            counts = np.bincount(drawn.ravel(), minlength=n * self.prompts)
            yield counts.reshape(n, self.prompts).astype(np.float64)

    def replicate(self, groups: Sequence[Sums], statistic: Statistic) -> list[Array]:
        """The figures of every group under every draw: one [draws, figures] a group."""
        import numpy as np

        found: list[list[Array]] = [[] for _ in groups]
        dense, sparse = self._batches(groups)
        for members in dense:
            wide = self._side_by_side([groups[i] for i in members])
            ends = np.cumsum([groups[i].values.shape[1] for i in members]).tolist()
            for weights in self._draws():  # one product, so that the draws are read once
                for i, totals in zip(members, np.hsplit(weights @ wide, ends[:-1]), strict=True):
                    found[i].append(statistic(totals))
        for weights in self._draws() if sparse else ():
            for i in sparse:
                found[i].append(statistic(weights[:, groups[i].prompts] @ groups[i].values))
        return [np.concatenate(rows) for rows in found]

    def _batches(self, groups: Sequence[Sums]) -> tuple[list[list[int]], list[int]]:
        """Groups on a quarter of the prompts or more, up to `_WIDE` numbers together; and the others."""
        dense: list[list[int]] = []
        sparse: list[int] = []
        columns = 0
        for i, group in enumerate(groups):
            size = group.values.shape[1]
            if 4 * len(group.prompts) < self.prompts:
                sparse.append(i)
                continue
            if not dense or (columns + size) * self.prompts > _WIDE:
                dense.append([])
                columns = 0
            dense[-1].append(i)
            columns += size
        return dense, sparse

    def _side_by_side(self, groups: Sequence[Sums]) -> Array:
        import numpy as np

        wide = np.zeros((self.prompts, sum(group.values.shape[1] for group in groups)))
        start = 0
        for group in groups:
            end = start + group.values.shape[1]
            wide[group.prompts, start:end] = group.values
            start = end
        return wide


def interval(draws: Array, value: float, prompts: int, low: float, high: float) -> Interval | None:
    """The percentile interval of one figure; where every draw is the same, the score interval with prompts as trials.

    Percentiles are read at `expanded_confidence`: plain ones are too narrow where prompts are few.

    Args:
        draws: the figure under every draw; NaN where it was over nothing.
        value: the figure.
        prompts: with observations.
        low: the least the figure can be; a figure without bounds (infinite) has no interval where all draws are alike.
        high: the most.
    """
    import numpy as np

    finite = draws[np.isfinite(draws)]
    if not len(finite) or prompts < 1:
        return None
    wide = expanded_confidence(CONFIDENCE, prompts) if prompts > 1 else CONFIDENCE
    ends = np.quantile(finite, [(1 - wide) / 2, (1 + wide) / 2])
    if finite.max() - finite.min() > _FLAT:
        return Interval(low=float(ends[0]), high=float(ends[1]))
    if not np.isfinite(high - low):
        return None
    share = score_interval(min(max((value - low) / (high - low), 0.0), 1.0), prompts, CONFIDENCE)
    return Interval(low=low + share.low * (high - low), high=low + share.high * (high - low))


def estimate(value: float, n: int, prompts: int, draws: Array, low: float = 0.0, high: float = 1.0) -> Estimate:
    """An estimate with its interval; of nothing, or NaN, None."""
    import math

    if not n or not math.isfinite(value):
        return Estimate(value=None, n=n, prompts=prompts, interval=None)
    return Estimate(value=value, n=n, prompts=prompts, interval=interval(draws, value, prompts, low, high))
