"""Preference rows as TRL reads them, with the columns that say where each label comes from (FORMATS.md 10)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

from pydantic import Field

from constitutional.errors import DataError
from constitutional.records import Comparison, Judgment, Message, Preference, Record
from constitutional.rows import read_rows


class PreferenceRow(Record):
    """One row. TRL reads the first three columns and leaves the others alone.

    `judge` and `seed` are None for a label that rests on no judgment: a revision preferred to what it revises, say.
    """

    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    chosen_prob: Annotated[float, Field(ge=0.5, le=1)]
    """Probability that the chosen answer is the better one."""
    rule: str
    principles: tuple[str, ...]
    """`id@version` of those the label rests on."""
    judge: str | None
    judgment_ids: tuple[str, ...]
    seed: int | None
    preference_id: str
    comparison_id: str


def preference_rows(
    comparisons: Sequence[Comparison], preferences: Sequence[Preference], judgments: Sequence[Judgment]
) -> tuple[list[PreferenceRow], list[str]]:
    """A row for each label, in the order of the labels, and a line for each reason there is none.

    Raises:
        DataError: no label can be a row.
    """
    by_comparison = {comparison.id: comparison for comparison in comparisons}
    by_id = {judgment.id: judgment for judgment in judgments}
    rows: list[PreferenceRow] = []
    without: dict[str, int] = {}
    for preference in preferences:
        comparison = by_comparison.get(preference.comparison_id)
        if preference.p_a is None or comparison is None:
            why = (preference.abstained or "no label") if comparison else "their comparison is not there"
            without[why] = without.get(why, 0) + 1
            continue
        used = next((by_id[id] for id in preference.judgment_ids if id in by_id), None)
        a, b = (Message(role="assistant", content=text) for text in (comparison.a, comparison.b))
        rows.append(
            PreferenceRow(
                prompt=comparison.messages,
                chosen=(a if preference.a_chosen else b,),
                rejected=(b if preference.a_chosen else a,),
                chosen_prob=max(preference.p_a, 1 - preference.p_a),
                rule=preference.rule,
                principles=preference.principles,
                judge=used.judge if used else None,
                judgment_ids=preference.judgment_ids,
                seed=used.seed if used else None,
                preference_id=preference.id,
                comparison_id=comparison.id,
            )
        )
    if not rows:
        reasons = "; ".join(f"{number} {why}" for why, number in without.items())
        raise DataError(f"no label that can be a preference row{f' ({reasons})' if reasons else ''}")
    return rows, [f"{number} pairs without a label: {why}" for why, number in without.items()]


def read_preference_rows(path: str) -> Iterator[PreferenceRow]:
    """Reads rows that `preference_rows` made, every column.

    Raises:
        DataError: `file:line: message` for a row that is none.
    """
    for place, row in read_rows(path):
        try:
            yield PreferenceRow.model_validate(row)
        except ValueError as error:
            raise DataError(f"{place}: no preference row of ours: {' '.join(str(error).split())}") from error
