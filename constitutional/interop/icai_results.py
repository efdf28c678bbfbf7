"""The results folder of Inverse Constitutional AI: pairs (csv), principles (JSON) and votes (csv), FORMATS.md 9.

A vote says whether a principle agrees with the label of a pair: True or False; None does not apply; "invalid", "both"
and "neither" are no preference either. The last two are read, but not written: Feedback Forensics 0.5 stops at them.
A pair needs a label to have votes.
"""

from __future__ import annotations

import ast
import csv
import io
from pathlib import Path

from constitutional.errors import DataError
from constitutional.interop.annotated_pairs import (
    DEFAULT,
    AnnotatedPair,
    AnnotatedPairs,
    Annotator,
    Vote,
    pair_id,
    short_hash,
)
from constitutional.interop.documents import read_source
from constitutional.interop.nodes import members, parse_json, text, to_json
from constitutional.rows import MAX_LIST, Row, read_rows

PAIRS, PRINCIPLES = "000_train_data.csv", "030_distilled_principles_per_cluster.json"
VOTES = "040_votes_per_comparison.csv"
MAX_VOTES = 1 << 20
"""Characters of one cell of votes."""
_REASONS = ("invalid", "both", "neither")

IcaiVote = bool | str | None


def write_results(pairs: AnnotatedPairs) -> tuple[dict[str, str], list[str]]:
    """The three files by name, and a line for each thing they do not hold.

    Raises:
        DataError: no pair has a label to vote on.
    """
    principles = [id for id, who in pairs.annotators.items() if who.type == "principle"]
    labelled = [
        (item, vote.pref)
        for item in pairs.items
        if isinstance(item, AnnotatedPair) and (vote := item.votes.get(pairs.default or "")) and vote.pref
    ]
    if not labelled:
        raise DataError("no pair has a label: votes of this format agree with a label or not")
    rows = [
        [str(i), item.a, item.b, f"text_{label}", item.prompt or "", item.a_model or "", item.b_model or ""]
        for i, (item, label) in enumerate(labelled)
    ]
    votes = []
    for index, (item, label) in enumerate(labelled):
        given = {n: _relative(item.votes[id], label) for n, id in enumerate(principles) if id in item.votes}
        votes.append([str(index), repr(given)])
    files = {
        PAIRS: _csv(["index", "text_a", "text_b", "preferred_text", "input", "model_a", "model_b"], rows),
        PRINCIPLES: to_json({str(n): pairs.annotators[id].description for n, id in enumerate(principles)}),
        VOTES: _csv(["index", "votes"], votes),
    }
    left_out = len(pairs.items) - len(labelled)
    others = len(pairs.annotators) - len(principles) - 1
    values = sum(vote.value is not None for item, _ in labelled for vote in item.votes.values())
    ties = sum(vote.side == "tie" for item, _ in labelled for id in principles if (vote := item.votes.get(id)))
    lost = [f"{ties} votes for both answers or neither: written as None, for readers stop at these"] if ties else []
    lost += [f"{left_out} pairs without a label that prefers one answer"] if left_out else []
    lost += [f"{others} annotators that are no principle"] if others > 0 else []
    lost += [f"the values of {values} votes: a vote is yes or no"] if values else []
    return files, lost


def read_results(folder: Path) -> AnnotatedPairs:
    """Reads the three files.

    Raises:
        DataError: one of them cannot be read; a row is named as file:line.
        ConstitutionError: the principles cannot be read.
    """
    rows = dict(_indexed(folder / PAIRS))
    named = members(parse_json(read_source(folder / PRINCIPLES, MAX_LIST)))
    principles = {number: text(node) for number, node in named.items()}
    votes = {index: read_votes(row.get("votes"), place) for index, (place, row) in _indexed(folder / VOTES)}
    default = short_hash(DEFAULT[1])
    annotators = {default: Annotator(*DEFAULT)}
    annotators |= {short_hash(asked): Annotator(None, asked, "principle") for asked in principles.values()}
    items = []
    for index, (place, row) in rows.items():
        label = {"text_a": "a", "text_b": "b"}.get(str(row.get("preferred_text")))
        if label is None or not isinstance(row.get("text_a"), str) or not isinstance(row.get("text_b"), str):
            raise DataError(f"{place}: expected text_a, text_b and a preferred_text of text_a or text_b")
        given = {default: Vote("a" if label == "a" else "b")}
        for number, vote in votes.pop(index, {}).items():
            if str(number) not in principles:
                raise DataError(f"{folder / VOTES}: index {index}: no principle {number}")
            given[short_hash(principles[str(number)])] = _absolute(vote, label)
        items.append(_item(row, given, place))
    if votes:
        raise DataError(f"{folder / VOTES}: votes on a pair that is not there: index {next(iter(votes))}")
    return AnnotatedPairs(annotators, tuple(items), default, folder.name, "Results of Inverse Constitutional AI")


def read_votes(cell: object, place: str) -> dict[int, IcaiVote]:
    """The votes of one row, written as Python writes a mapping of numbers; nothing in it is executed.

    Raises:
        DataError: it is something else; begins with `place`.
    """
    try:
        if not isinstance(cell, str) or len(cell) > MAX_VOTES:
            raise ValueError("no text, or too long")
        found = ast.literal_eval(cell)
        if not isinstance(found, dict) or not all(map(_is_vote, found.keys(), found.values())):
            raise ValueError("no votes")
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise DataError(f"{place}: votes: expected a mapping such as {{0: True, 1: None, 2: 'invalid'}}") from error
    return found


def _is_vote(number: object, vote: object) -> bool:
    given = vote is None or isinstance(vote, bool) or (isinstance(vote, str) and vote.lower() in _REASONS)
    return type(number) is int and given


def _indexed(path: Path) -> list[tuple[str, tuple[str, Row]]]:
    return [(str(row.get("index", row.get(""))), (place, row)) for place, row in read_rows(str(path))]


def _item(row: Row, votes: dict[str, Vote], place: str) -> AnnotatedPair:
    prompt, a_model, b_model = (row.get(key) or None for key in ("input", "model_a", "model_b"))
    a, b = (
        {"text": text, **({} if model is None else {"model": model})}
        for text, model in ((row["text_a"], a_model), (row["text_b"], b_model))
    )
    return AnnotatedPair(pair_id(prompt, a, b), prompt, a["text"], b["text"], a_model, b_model, votes, place)


def _relative(vote: Vote, label: str | None) -> IcaiVote:
    if vote.pref is not None:
        return vote.pref == label
    return "invalid" if vote.reason == "invalid" else None


def _absolute(vote: IcaiVote, label: str) -> Vote:
    if isinstance(vote, bool):
        return Vote("a" if (label == "a") == vote else "b")
    if vote is None:
        return Vote(None, "not_applicable")
    return Vote(None, {"invalid": "invalid", "both": "both", "neither": "neither"}[vote.lower()])  # type: ignore[arg-type]


def _csv(columns: list[str], rows: list[list[str]]) -> str:
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator="\n").writerows([columns, *rows])
    return out.getvalue()
