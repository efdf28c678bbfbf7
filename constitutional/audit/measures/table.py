"""Everything the measures are made from: one row for each subject and comparison that was asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from constitutional.audit.measures.cells import Cells, cells, merged_subjects, sides
from constitutional.audit.measures.columns import OUTCOMES, Judgments, SubjectKey
from constitutional.audit.measures.corpus import Corpus

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

UNLABELLED = 2
EQUAL_LENGTH = 0.0953  # log 1.1: lengths within a tenth of one another


@dataclass(frozen=True)
class Table:
    """The judgments of known comparisons, put together by subject and comparison; arrays have one entry a row."""

    corpus: Corpus
    subjects: list[SubjectKey]
    judgments: Judgments
    cells: Cells
    prompt: NDArray[np.int64]
    """Number of the prompt."""
    log_ratio: NDArray[np.float64]
    label: NDArray[np.int8]
    """1 for a, -1 for b, 0 for neither, `UNLABELLED`."""
    of_applies: NDArray[np.bool_]
    """Of each judgment, whether it asked only if its principle applies."""
    unplaced: int
    again: int

    def __len__(self) -> int:
        return len(self.cells)

    @cached_property
    def outcomes(self) -> NDArray[np.int64]:
        """Judgments by outcome, [rows, outcomes]."""
        import numpy as np

        width = len(OUTCOMES)
        flat = np.bincount(self.cells.of * width + self.judgments.outcome, minlength=len(self) * width)
        return flat.reshape(len(self), width)

    def total(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """The sum over a row's judgments."""
        import numpy as np

        return np.bincount(self.cells.of, values, len(self)).astype(np.float64)

    @cached_property
    def firsts(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Judgments that prefer the answer read first, and those that prefer either."""
        import numpy as np

        p = np.where(self.judgments.first_a, self.judgments.p, 1 - self.judgments.p)
        return self.total(sides(p) > 0), self.total(sides(p) != 0)

    @cached_property
    def masses(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Sum and number of the masses; those of the question whether a principle applies are no masses of options."""
        import numpy as np

        asked = self.judgments.outcome != OUTCOMES.index("not_applicable")
        given = np.isfinite(self.judgments.mass) & asked & ~self.of_applies
        return self.total(np.where(given, self.judgments.mass, 0.0)), self.total(given)


def most_judged(table: Table, subjects: Sequence[int]) -> list[int]:
    """Of some subjects one for each `id@version`, judge and mode: where texts changed, the one judged most often."""
    import numpy as np

    size = np.bincount(table.cells.subject, minlength=len(table.subjects))
    best: dict[tuple[str, str, str], int] = {}
    for s in subjects:
        ref, _, judge, mode, _ = table.subjects[s]
        if (ref, judge, mode) not in best or size[s] > size[best[ref, judge, mode]]:
            best[ref, judge, mode] = s
    return list(best.values())


def make_table(corpus: Corpus) -> Table:
    """The table of a corpus; judgments on comparisons that no run has are counted and left out."""
    import numpy as np

    found, again = corpus.reader.judgments()
    read = list(corpus.reader.subjects)
    subjects, places = merged_subjects(read)
    place = np.full(max(len(corpus.reader.comparisons), 1), -1, dtype=np.int32)
    for number, where in corpus.place.items():
        place[number] = where
    known = place[found.comparison] >= 0
    unplaced = int(len(found) - known.sum())
    if unplaced:
        found = found.take(known)
    numbers = np.array(places or [0], dtype=np.int32)
    applies = np.array([key[3] == "applies" for key in read] or [False])[found.subject]
    judgments = found.numbered(place[found.comparison], numbers[found.subject])
    made = cells(judgments, len(corpus.comparisons.prompt))
    prompts = np.array(corpus.comparisons.prompt, dtype=np.int64)
    ratios = np.array(corpus.comparisons.log_ratio, dtype=np.float64)
    return Table(
        corpus=corpus,
        subjects=subjects,
        judgments=judgments,
        cells=made,
        prompt=prompts[made.comparison],
        log_ratio=ratios[made.comparison],
        label=_labels(corpus, subjects, made),
        of_applies=applies,
        unplaced=unplaced,
        again=again,
    )


def _labels(corpus: Corpus, subjects: list[SubjectKey], made: Cells) -> NDArray[np.int8]:
    import numpy as np

    found = np.full(len(made), UNLABELLED, dtype=np.int8)
    labelled = {corpus.place[number]: number for number, _ in corpus.labels.said if number in corpus.place}
    if labelled:
        principles = [key[0] for key in subjects]
        for row in np.flatnonzero(np.isin(made.comparison, list(labelled))).tolist():
            side = corpus.labels.side(labelled[int(made.comparison[row])], principles[int(made.subject[row])])
            if side is not None:
                found[row] = side
    return found
