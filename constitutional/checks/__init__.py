"""Principles that are code: a function `(conversation, response)` that gives a score in [0, 1], or None."""

from constitutional.checks.completeness import complete
from constitutional.checks.loading import NO_CHECKS, PASSES, Check, Score, coded_digest, open_check, score
from constitutional.checks.private_data import no_private_data

__all__ = [
    "NO_CHECKS",
    "PASSES",
    "Check",
    "Score",
    "coded_digest",
    "complete",
    "no_private_data",
    "open_check",
    "score",
]
