"""What a judge said of pairs, in the formats of others: AnnotatedPairs, the results of ICAI, preference rows of TRL."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from constitutional.errors import ConfigError, DataError, nearest, one_line
from constitutional.feedback.label.opinions import side
from constitutional.interop.annotated_pairs import (
    DEFAULT,
    AnnotatedPair,
    AnnotatedPairs,
    Annotator,
    Vote,
    pair_id,
    read_annotated_pairs,
    short_hash,
    with_votes,
    write_annotated_pairs,
)
from constitutional.interop.icai_results import write_results
from constitutional.interop.preference_rows import preference_rows
from constitutional.principles import Constitution
from constitutional.records import Comparison, Dialogue, HumanLabel, Judgment, Preference

REFERENCE = short_hash(DEFAULT[1])
"""The id under which readers of AnnotatedPairs look for the annotator that all others are compared with."""

Votes = dict[str, dict[str, Vote]]
"""By pair id, then annotator id."""


@dataclass(frozen=True)
class Judged:
    """Comparisons and all that was said of them: labels, judgments of one judge, and the soft labels made of these."""

    name: str
    constitution: Constitution
    comparisons: tuple[Comparison, ...]
    labels: tuple[HumanLabel, ...]
    judgments: tuple[Judgment, ...]
    preferences: tuple[Preference, ...]
    made: str
    """When the judging ended, as `2026-01-31T12:00:00Z`."""


@dataclass(frozen=True)
class ExportedFiles:
    """Files by name; one without a name where the format is one file. `lost` says, a line each, what is in none."""

    files: dict[str, str]
    lost: tuple[str, ...]


def export_judged(judged: Judged, format: str, *, original: Path | None = None) -> ExportedFiles:
    """Writes what was judged in another format.

    Args:
        judged: what to write.
        format: a name in `JUDGED_FORMATS`.
        original: of annotated-pairs: the file the pairs came from; its other votes, ids and metadata are kept.

    Raises:
        ConfigError: no such format, or one that takes no original.
        DataError: there is nothing in it that the format has a form for.
        ConstitutionError: the original cannot be read.
    """
    if format not in JUDGED_FORMATS:
        raise ConfigError(f"no format '{format}'{nearest(format, JUDGED_FORMATS)}")
    if original is not None and format != "annotated-pairs":
        raise ConfigError(f"--original: only annotated-pairs keeps what stands in it (not {format})")
    exported = JUDGED_FORMATS[format](judged, original)
    # half of a surrogate pair, which a model may write and no file can hold, is written as its escape
    files = {name: text.encode("utf-8", "backslashreplace").decode() for name, text in exported.files.items()}
    return replace(exported, files=files, lost=tuple(map(one_line, exported.lost)))


def as_annotated(judged: Judged, original: Path | None = None) -> tuple[AnnotatedPairs, list[str]]:
    """Pairs with one annotator for each source of labels and for each principle, and what they do not hold.

    Where there are no labels, the soft labels stand in the place of the annotator that others are compared with.
    """
    lost: list[str] = []
    if original is not None:
        pairs = read_annotated_pairs(original)
        ids = {(item.messages, item.a, item.b): item.id for item in pairs.items if isinstance(item, AnnotatedPair)}
        places = {c.id: ids[c.messages, c.a, c.b] for c in judged.comparisons if (c.messages, c.a, c.b) in ids}
        if not places:
            raise DataError(f"{original}: holds none of the pairs that were judged")
        if missing := len(judged.comparisons) - len(places):
            lost.append(f"{missing} pairs that are not in {original.name}")
    else:
        items = {c.id: _pair(c) for c in judged.comparisons}
        places = {id: item.id for id, item in items.items()}
        about = f"Judged under {judged.constitution.ref}; the value of a principle's annotation is p of a"
        pairs = AnnotatedPairs({}, tuple(items.values()), REFERENCE, judged.name, about, judged.made)
        turns = sum(len(c.messages) > 1 for c in judged.comparisons)
        lost += [f"the turns of {turns} conversations, each written as one text"] if turns else []
        pairs = with_votes(pairs, *_reference(judged, places))
    if judged.judgments:
        lost.append(
            f"of {len(judged.judgments)} judgments all but their mean over both orders: order, log-probabilities, "
            "mass, template, seed"
        )
    return with_votes(pairs, *_principles(judged, places)), lost


def vote_of(judgments: Sequence[Judgment]) -> Vote:
    """A principle's judgments of one pair, both orders, as a vote; its value is the mean p of `a`.

    A tie is written as `both`; what was not read in both orders is `invalid`.
    """
    p = [j.p_a for j in judgments if j.p_a is not None]
    outcomes = {j.outcome for j in judgments}
    if len(p) == len(judgments) == 2:
        mean = sum(p) / 2
        preferred = side(mean)
        return Vote("a" if preferred > 0 else "b", None, mean) if preferred else Vote(None, "both", mean)
    if outcomes == {"not_applicable"}:
        return Vote(None, "not_applicable")
    return Vote(None, "both" if outcomes == {"tie"} else "invalid")


def prompt_text(messages: Dialogue) -> str | None:
    """A conversation as one text: the user's where there is one turn, else the turns as in hh-rlhf."""
    if not messages:
        return None
    if len(messages) == 1 and messages[0].role == "user":
        return messages[0].content
    names = {"user": "Human", "assistant": "Assistant", "system": "System"}
    return "".join(f"\n\n{names[message.role]}: {message.content}" for message in messages)


def _pair(comparison: Comparison) -> AnnotatedPair:
    prompt = prompt_text(comparison.messages)
    a, b = (
        {"text": text, **({} if model is None else {"model": model})}
        for text, model in ((comparison.a, comparison.a_model), (comparison.b, comparison.b_model))
    )
    return AnnotatedPair(
        pair_id(prompt, a, b), prompt, comparison.a, comparison.b, comparison.a_model, comparison.b_model, {}
    )


def _reference(judged: Judged, places: Mapping[str, str]) -> tuple[dict[str, Annotator], Votes]:
    """The first source of labels is the reference; without labels the soft labels are."""
    annotators: dict[str, Annotator] = {}
    votes: Votes = {}
    first = judged.labels[0].source if judged.labels else None
    for label in judged.labels:
        by = REFERENCE if label.source == first else short_hash(f"column_{label.source}")
        about = DEFAULT[1] if label.source == first else f"Labels of {label.source}"
        annotators[by] = Annotator(label.source, about, "human")
        vote = Vote(None, "both") if label.preferred == "tie" else Vote(label.preferred)
        votes.setdefault(places[label.comparison_id], {})[by] = vote
    for preference in judged.preferences if first is None else ():
        if preference.p_a is not None and preference.comparison_id in places:
            annotators[REFERENCE] = Annotator(f"soft label, rule {preference.rule}", DEFAULT[1], "unknown")
            side = Vote("a" if preference.a_chosen else "b", None, preference.p_a)
            votes[places[preference.comparison_id]] = {REFERENCE: side}
    return annotators, votes


def _principles(judged: Judged, places: Mapping[str, str]) -> tuple[dict[str, Annotator], Votes]:
    """One annotator for each principle text and judge: a version of other words is another annotator."""
    by_question: dict[tuple[str, str, str], list[Judgment]] = {}
    for judgment in judged.judgments:
        if judgment.comparison_id in places:
            asked = (judgment.comparison_id, judgment.principle, judgment.principle_digest)
            by_question.setdefault(asked, []).append(judgment)
    requests = {p.ref: p.comparison_request or p.title for p in judged.constitution.principles}
    annotators: dict[str, Annotator] = {}
    votes: Votes = {}
    for (comparison_id, ref, digest), judgments in by_question.items():
        judge = judgments[0].judge
        by = short_hash(f"{ref}|{digest}|{judge}")
        annotators[by] = Annotator(f"{ref} by {judge}", requests.get(ref, ref), "principle")
        votes.setdefault(places[comparison_id], {})[by] = vote_of(judgments)
    return annotators, votes


def _annotated(judged: Judged, original: Path | None) -> ExportedFiles:
    pairs, lost = as_annotated(judged, original)
    return ExportedFiles({"": write_annotated_pairs(pairs, original)}, tuple(lost))


def _icai(judged: Judged, original: Path | None) -> ExportedFiles:
    pairs, lost = as_annotated(judged)
    files, more = write_results(pairs)
    return ExportedFiles(files, (*lost, *more))


def _trl(judged: Judged, original: Path | None) -> ExportedFiles:
    rows, lost = preference_rows(judged.comparisons, judged.preferences, judged.judgments)
    return ExportedFiles({"": "".join(row.to_json() + "\n" for row in rows)}, tuple(lost))


JUDGED_FORMATS: dict[str, Callable[[Judged, Path | None], ExportedFiles]] = {
    "annotated-pairs": _annotated,
    "icai-results": _icai,
    "trl": _trl,
}
