"""What a comparison of two versions of a constitution says."""

from __future__ import annotations

from constitutional.audit.measures.records import Estimate
from constitutional.records import Record


class DiffCost(Record):
    """What judging under the changed principles costs; `stored` is answered already. `tokens` is an estimate: what the
    run's own judgments under the old versions cost on average, for each one that is still to be asked."""

    judgments: int
    stored: int
    to_ask: int
    tokens: int


class PrincipleDiff(Record):
    """Two versions of a principle on the same comparisons; every difference is new less old, paired.

    `flips`: of the comparisons on which both have a side, the share whose side differs. `shift`, `decisiveness` and
    `order_consistency`: mean difference of p, of 2·|p - 1/2| and of "both orders prefer the same" where both have an
    opinion. `strength` as in Feedback Forensics, (agree - disagree) / all: against people's labels where there are any,
    else against the label the run's rule makes of the other principles. Intervals: 95 %, whole prompts drawn.
    """

    old: str
    new: str
    old_digest: str
    new_digest: str
    fields: tuple[str, ...]
    """What differs."""
    comparisons: int
    old_outcomes: dict[str, int]
    new_outcomes: dict[str, int]
    flips: Estimate
    shift: Estimate
    decisiveness: Estimate
    order_consistency: Estimate
    strength: Estimate


class LabelChanges(Record):
    """The training labels of the run's rule before and after. Shares are of the labels before; `gained` are new."""

    rule: str
    comparisons: int
    labels: int
    stored: int
    stored_same: int
    """Of the run's stored labels of these comparisons, how many the old versions give again."""
    flips: Estimate
    lost: Estimate
    gained: int
    mean_shift: Estimate
    """Mean of |p after - p before| over labels that stay."""


class VersionDiff(Record):
    """What a new constitution changes in a run. `missing`: questions not asked yet; figures are without them."""

    run: str
    old: str
    new: str
    judge: str
    cost: DiffCost
    missing: int
    resamples: int
    seed: int
    principles: tuple[PrincipleDiff, ...]
    labels: LabelChanges
    added: tuple[str, ...]
    """Principles the run knows nothing of; they are not judged."""
    removed: tuple[str, ...]
    notes: tuple[str, ...]
