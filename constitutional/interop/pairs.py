"""Human-labelled pairs of other projects as comparisons, their labels kept beside them.

Forms: hh-rlhf rows `{chosen, rejected}`, TRL rows `{prompt, chosen, rejected}` in texts or messages (prompts.py), rows
of two texts in places `{text_a, text_b, preferred_text}` (the csv of Inverse Constitutional AI), AnnotatedPairs files,
and the samples of Bai et al. 2022. A row that cannot be used is a Failure that names its place; the rest is read.

Of a chosen and a rejected answer a seed and the two texts decide which becomes `a`, never the label: a judge that
always likes the first position must not look right. Answers that have places in their file keep them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from constitutional.errors import DataError, nearest, one_line
from constitutional.interop.annotated_pairs import is_annotated_pairs, read_annotated_pairs
from constitutional.interop.paper_samples import PaperSample, is_paper_sample, paper_sample
from constitutional.prompts import HumanPair, pair_of, tags_of, transcript_turns
from constitutional.records import (
    Comparison,
    Dialogue,
    Failure,
    HumanLabel,
    Origin,
    Prompt,
    PromptKind,
    seed_for,
    short_digest,
    user,
)
from constitutional.rows import Row, scan_rows

STAGE = "pairs"
MALFORMED = "malformed_row"
UNUSABLE = (MALFORMED, "prompt_mismatch", "empty_answer")
"""Kinds of failures that say something is wrong with a row. Two equal answers, or a pair twice, are no fault."""
_SIDES = {"text_a": "a", "text_b": "b", "tie": "tie"}


@dataclass(frozen=True)
class LabelledPairs:
    """A file of pairs: its prompts, comparisons and labels in file order, and the rows that gave none."""

    prompts: tuple[Prompt, ...]
    comparisons: tuple[Comparison, ...]
    labels: tuple[HumanLabel, ...]
    failures: tuple[Failure, ...]

    @property
    def in_order(self) -> tuple[Comparison | Failure, ...]:
        """The comparisons, then what failed."""
        return (*self.comparisons, *self.failures)


@dataclass(frozen=True)
class _Pair:
    """Two answers in their places, before they are a record; `preferred` by each source that says something."""

    messages: Dialogue
    a: str
    b: str
    preferred: dict[str, str]
    a_model: str | None = None
    b_model: str | None = None
    tags: tuple[str, ...] = ()
    origin: Origin = "human"


def read_pairs(
    path_or_hub_id: str, *, kind: PromptKind = "helpful", seed: int = 0, limit: int | None = None
) -> LabelledPairs:
    """Reads a file of labelled pairs, whatever its form.

    Args:
        path_or_hub_id: .jsonl, .jsonl.gz, .json or .csv file, or a hub data set (its `train` split).
        kind: what the prompts are.
        seed: of the places of chosen and rejected answers.
        limit: how many rows to read.

    Raises:
        DataError: the file cannot be read, or holds no pair that can be used (the first problem is named).
        ConstitutionError: an AnnotatedPairs file that is broken as a whole.
    """
    source = Path(path_or_hub_id).name if Path(path_or_hub_id).exists() else path_or_hub_id
    if is_annotated_pairs(Path(path_or_hub_id)):
        found = _annotated(Path(path_or_hub_id), limit)
    else:
        found = _rows(path_or_hub_id, source, seed, limit)
    pairs = _collected(found, kind, source)
    if not pairs.comparisons:
        first = pairs.failures[0]
        raise DataError(one_line(f"{path_or_hub_id}: no pair that can be used: {first.item_id}: {first.message}"))
    return pairs


def placed(pair: HumanPair, seed: int) -> tuple[str, str, str]:
    """(a, b, which of them is chosen): drawn from the two texts in sorted order, so that no label moves an answer."""
    one, other = sorted((pair.chosen, pair.rejected))
    turns = [message.model_dump() for message in pair.messages]
    if seed_for(seed, "places", str(turns), one, other) % 2:
        one, other = other, one
    return one, other, "a" if one == pair.chosen else "b"


def _rows(path: str, source: str, seed: int, limit: int | None) -> Iterator[tuple[str, _Pair | Failure]]:
    for number, (place, row) in enumerate(scan_rows(path)):
        if limit is not None and number >= limit:
            return
        if isinstance(row, DataError):
            yield place, _malformed(place, row)
            continue
        try:
            yield place, _row(row, place, source, seed)
        except DataError as error:
            yield place, _malformed(place, error)


def _row(row: Row, place: str, source: str, seed: int) -> _Pair | Failure:
    tags = tags_of(row, place) if isinstance(row.get("tags"), list) else ()
    if is_paper_sample(row):
        return _paper(paper_sample(row, place), place, seed)
    if "text_a" in row or "text_b" in row:
        return _in_places(row, place, source, tags)
    pair = pair_of(row, place)
    if "prompt_mismatch" in pair.flags:
        return _failure(place, "prompt_mismatch", "chosen and rejected do not share their conversation")
    a, b, chosen = placed(pair, seed)
    return _Pair(pair.messages, a, b, {source: chosen}, tags=tags)


def _in_places(row: Row, place: str, source: str, tags: tuple[str, ...]) -> _Pair:
    """A row of the csv of Inverse Constitutional AI."""
    for key in ("text_a", "text_b", "preferred_text"):
        if not isinstance(row.get(key), str):
            raise DataError(f"{place}: '{key}' must be a text")
    if row["preferred_text"] not in _SIDES:
        raise DataError(f"{place}: preferred_text: got '{row['preferred_text'][:40]}'{nearest('', _SIDES)}")
    asked = row.get("input")
    return _Pair(
        (user(asked),) if isinstance(asked, str) and asked else (),
        row["text_a"],
        row["text_b"],
        {source: _SIDES[row["preferred_text"]]},
        a_model=row.get("model_a") or None,
        b_model=row.get("model_b") or None,
        tags=tags,
    )


def _paper(sample: PaperSample, place: str, seed: int) -> _Pair:
    """A sample of the paper: the last revision against the first answer, or the best-scored answer against the worst.

    The label's source says which it is: nobody human looked at these.
    """
    if sample.initial is not None and sample.rounds:
        chosen, rejected, source = sample.rounds[-1].revision, sample.initial, "provenance"
    else:
        scored = [(sum(scores) / len(scores), text) for text, scores in sample.answers if scores]
        if not scored:
            raise DataError(f"{place}: no answer with a score, and no revision")
        chosen, rejected, source = max(scored)[1], min(scored)[1], "preference_model"
    messages = transcript_turns(sample.prompt, place)
    pair = HumanPair(messages=messages, chosen=chosen.strip(), rejected=rejected.strip())
    a, b, side = placed(pair, seed)
    origin: Origin = "revision" if source == "provenance" else "sampled"
    return _Pair(messages, a, b, {source: side}, sample.model, sample.model, origin=origin)


def _annotated(path: Path, limit: int | None) -> Iterator[tuple[str, _Pair | Failure]]:
    """The comparisons of an AnnotatedPairs file; its principles' votes are no human labels."""
    file = read_annotated_pairs(path)
    for item in file.items[:limit]:
        if isinstance(item, DataError):
            place, _, _ = str(item).partition(": ")
            yield place, _malformed(place, item)
            continue
        said = {file.name_of(by): vote.side for by, vote in item.votes.items() if file.is_label(by) and vote.side}
        yield item.place, _Pair(item.messages, item.a, item.b, said, item.a_model, item.b_model)


def _collected(found: Iterator[tuple[str, _Pair | Failure]], kind: PromptKind, source: str) -> LabelledPairs:
    prompts: dict[str, Prompt] = {}
    comparisons: dict[str, Comparison] = {}
    labels: dict[tuple[str, str], HumanLabel] = {}
    failures: list[Failure] = []
    for place, item in found:
        if isinstance(item, Failure):
            failures.append(item)
            continue
        if problem := _problem(item):
            failures.append(_failure(place, *problem))
            continue
        prompt = Prompt(messages=item.messages, kind=kind, source=source, split="train", tags=item.tags)
        # pairs without a prompt share none: intervals that go by prompt must not take them for one
        prompt_id = prompt.id if item.messages else short_digest([source, item.a, item.b])
        comparison = Comparison(
            prompt_id=prompt_id,
            messages=item.messages,
            a=item.a,
            b=item.b,
            a_model=item.a_model,
            b_model=item.b_model,
            origin=item.origin,
        )
        given = {
            (comparison.id, by): HumanLabel.model_validate(
                {"comparison_id": comparison.id, "preferred": side, "source": by}
            )
            for by, side in item.preferred.items()
        }
        if comparison.id in comparisons:
            other = any(key in labels and labels[key] != label for key, label in given.items())
            kind_of = "contradicting_label" if other else "repeated_pair"
            failures.append(_failure(place, kind_of, "the same pair stands before it; its first label counts"))
        if item.messages:
            prompts.setdefault(prompt.id, prompt)
        comparisons.setdefault(comparison.id, comparison)
        for key, label in given.items():
            labels.setdefault(key, label)
    return LabelledPairs(tuple(prompts.values()), tuple(comparisons.values()), tuple(labels.values()), tuple(failures))


def _problem(pair: _Pair) -> tuple[str, str] | None:
    """(kind, message) of what leaves nothing to judge."""
    if not pair.a.strip() or not pair.b.strip():
        return "empty_answer", "an answer without text"
    return ("identical_pair", pair.a[:80]) if pair.a == pair.b else None


def _malformed(place: str, error: DataError) -> Failure:
    return _failure(place, MALFORMED, str(error).removeprefix(f"{place}: "))


def _failure(place: str, kind: str, message: str) -> Failure:
    return Failure(item_id=one_line(place), stage=STAGE, kind=kind, message=one_line(message))


def label_counts(labels: Sequence[HumanLabel]) -> dict[str, int]:
    """How many labels prefer which place: about as many `a` as `b`, or the places were not drawn."""
    return {f"label_{side}": sum(label.preferred == side for label in labels) for side in ("a", "b", "tie")}
