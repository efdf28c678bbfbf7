"""What a step lost: items that were not answered, and judgments that could not be read. They are never made up for."""

from __future__ import annotations

from constitutional.errors import RunError
from constitutional.records import Judgment
from constitutional.runs import StageResult

UNANSWERED = ("invalid_answer", "rejected", "content_filter", "no_opening")
"""Kinds of failure of items that a server did not answer."""

NO_FAULT = ("identical_pair", "no_pair")
"""Kinds of failure that say nothing of a model or an input."""

JUDGED = ("gate", "judge", "evaluate")


def lost(step: str, result: StageResult) -> tuple[int, int]:
    """(lost, all) items of a finished step; a judgment that is `invalid` or an `error` is lost."""
    failures = sum(n for kind, n in result.manifest.failures.items() if kind not in NO_FAULT)
    made = result.manifest.counts.get("records", 0)
    if step in JUDGED and made:
        failures += sum(judgment.outcome in ("invalid", "error") for judgment in result.records(Judgment))
    return failures, made + sum(result.manifest.failures.values())


def check_lost(step: str, result: StageResult, most: float) -> None:
    """Ends a run whose step lost too much.

    Args:
        step: its name.
        result: its result.
        most: the largest share of items that may be lost.

    Raises:
        RunError: more is lost.
    """
    missing, asked = lost(step, result)
    if asked and missing / asked > most:
        raise RunError(
            f"{step}: {missing} of {asked} items failed ({missing / asked:.1%}), more than --fail-on-error {most:g} "
            f"allows: they are listed in {result.folder} and the report"
        )
