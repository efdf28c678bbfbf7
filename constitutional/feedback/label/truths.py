"""Comparisons whose better answer is known: what calibrations and weights are fitted to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from constitutional.records import short_digest


@dataclass(frozen=True)
class Truth:
    """Which answer of a comparison is the better one, said by an author or a person."""

    comparison_id: str
    prompt_id: str
    """Comparisons on one prompt are not independent: they stay together in folds and in intervals."""
    a_better: bool


def labels_digest(truths: Iterable[Truth]) -> str:
    """The digest of the labels a fit was made from, whatever their order."""
    return short_digest(sorted([t.comparison_id, t.prompt_id, t.a_better] for t in truths))
