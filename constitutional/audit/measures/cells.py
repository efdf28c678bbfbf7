"""What each principle says of each comparison: judgments of both orders put together."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from constitutional.audit.measures.columns import OUTCOMES, Judgments, SubjectKey
from constitutional.feedback.label.opinions import ROUNDING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NOT_APPLICABLE = OUTCOMES.index("not_applicable")


@dataclass(frozen=True)
class Cells:
    """One row for each subject and comparison that was asked, sorted by both."""

    subject: NDArray[np.int64]
    comparison: NDArray[np.int64]
    p_ab: NDArray[np.float64]
    """NaN where that order gave no p."""
    p_ba: NDArray[np.float64]
    left_out: NDArray[np.bool_]
    """Not applicable, in every order."""
    of: NDArray[np.int64]
    """The row of each judgment."""

    def __len__(self) -> int:
        return len(self.subject)

    @cached_property
    def p(self) -> NDArray[np.float64]:
        """The opinion: the mean over both orders; NaN where one is missing."""
        return (self.p_ab + self.p_ba) / 2

    @cached_property
    def side(self) -> NDArray[np.int64]:
        """1 for a, -1 for b, 0 for neither: p of one half, or no opinion."""
        return sides(self.p)

    @cached_property
    def consistent(self) -> NDArray[np.bool_]:
        """Both orders prefer the same answer; false where there is no opinion, or one of the orders prefers none."""
        same: NDArray[np.bool_] = sides(self.p_ab) * sides(self.p_ba) > 0
        return same


def sides(p: NDArray[np.float64]) -> NDArray[np.int64]:
    """`label.side` of each: 1 for a, -1 for b, 0 for neither, and for none (NaN)."""
    import numpy as np

    above = np.nan_to_num(p, nan=0.5) - 0.5
    return (above > ROUNDING).astype(np.int64) - (above < -ROUNDING)


def cells(judgments: Judgments, comparisons: int) -> Cells:
    """Puts judgments together; several of the same order are averaged."""
    import numpy as np

    width = max(comparisons, 1)
    keys, of = np.unique(judgments.subject.astype(np.int64) * width + judgments.comparison, return_inverse=True)
    given = np.isfinite(judgments.p)

    def mean(rows: NDArray[np.bool_]) -> NDArray[np.float64]:
        n = np.bincount(of[rows], minlength=len(keys))
        total = np.bincount(of[rows], weights=judgments.p[rows], minlength=len(keys))
        found: NDArray[np.float64] = np.divide(total, n, out=np.full(len(keys), np.nan), where=n > 0)
        return found

    other = np.bincount(of, weights=judgments.outcome != NOT_APPLICABLE, minlength=len(keys))
    return Cells(
        subject=keys // width,
        comparison=keys % width,
        p_ab=mean(given & judgments.first_a),
        p_ba=mean(given & ~judgments.first_a),
        left_out=other == 0,
        of=of,
    )


def merged_subjects(subjects: list[SubjectKey]) -> tuple[list[SubjectKey], list[int]]:
    """Subjects with those of mode `applies` put to what they are about, and the new number of each.

    A judgment of mode `applies` says that a principle does not apply, in the place of a judgment of another mode: by
    the same judge, or by the check whose code the digest holds. Where no other mode was used, or several were, it stays
    by itself.
    """
    others = [key for key in subjects if key[3] != "applies"]
    kept, places = [], []
    by_judge: dict[tuple[str, str, str], list[SubjectKey]] = {}
    by_digest: dict[tuple[str, str], list[SubjectKey]] = {}
    for key in others:
        by_judge.setdefault((key[0], key[1], key[2]), []).append(key)
        by_digest.setdefault((key[0], key[1]), []).append(key)
    of: dict[SubjectKey, SubjectKey] = {}
    for key in subjects:
        target = key
        if key[3] == "applies":
            found = by_judge.get((key[0], key[1], key[2])) or [k for k in by_digest.get(key[:2], []) if k[3] == "check"]
            target = found[0] if len(found) == 1 else key
        of[key] = target
    wanted = Counter(of.values())
    kept = sorted(wanted)
    number = {key: i for i, key in enumerate(kept)}
    places = [number[of[key]] for key in subjects]
    return kept, places
