"""The samples of Bai et al. 2022 (github.com/anthropics/ConstitutionalHarmlessnessPaper), FORMATS.md 4.

A row is a prompt with either a first answer and its critiques and revisions (`cst`), or several sampled answers with
scores of a preference model. It is the only public log of the paper's steps; ours can be written the same way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from constitutional.errors import DataError
from constitutional.interop.paper import CRITIQUE, REVISION, paper_requests
from constitutional.principles import Principle
from constitutional.records import Prompt, Revision
from constitutional.rows import Row, read_rows

_NAMES = {"user": "Human", "assistant": "Assistant", "system": "System"}


@dataclass(frozen=True)
class PaperRound:
    """One critique and revision; the requests without the words of the transcript around them."""

    key: str
    critique_request: str
    revision_request: str
    critique: str
    revision: str


@dataclass(frozen=True)
class PaperSample:
    """A row, texts letter for letter. Either `initial` and `rounds`, or `answers` with their scores."""

    model: str
    prompt: str
    """With the words of the transcript: it ends with `Assistant:`."""
    dataset: str
    comparison_model: str | None
    initial: str | None = None
    rounds: tuple[PaperRound, ...] = ()
    answers: tuple[tuple[str, tuple[float, ...]], ...] = ()


def is_paper_sample(row: Row) -> bool:
    """Whether a row looks like one."""
    return "rl_prompt" in row and ("cst" in row or "sampled_answers" in row)


def read_paper_samples(path: str) -> Iterator[PaperSample]:
    """Reads a file of samples, row by row.

    Raises:
        DataError: `file:line: message` for a row that is none, or holds more than a sample does.
    """
    for place, row in read_rows(path):
        yield paper_sample(row, place)


def paper_sample(row: Row, place: str) -> PaperSample:
    """The sample in one row. Raises DataError, which begins with `place`, where there is none."""
    try:
        found = _sample(row)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise DataError(f"{place}: no sample of the paper: {type(error).__name__} {error}") from error
    if paper_row(found) != row:
        raise DataError(f"{place}: no sample of the paper: it holds more or other things than a sample does")
    return found


def paper_row(sample: PaperSample) -> dict[str, Any]:
    """A sample as a row of the file."""
    row: dict[str, Any] = {"model": sample.model, "rl_prompt": sample.prompt, "comparison_dataset": sample.dataset}
    if sample.comparison_model is not None:
        row["comparison_model"] = sample.comparison_model
    if sample.initial is None:
        row["sampled_answers"] = [
            {"sampled_string": text, "pm_scores": [{"pm_score": score} for score in scores]}
            for text, scores in sample.answers
        ]
        return row
    row["initial_response"] = [{"sample": sample.initial}]
    row["cst"] = [
        {
            "cst_key": step.key,
            "cst_value": {
                "prompt": [CRITIQUE[0] + step.critique_request + CRITIQUE[1]],
                "edit_request": REVISION[0] + step.revision_request + REVISION[1],
            },
            "critique": {"sample": step.critique},
            "revision": {"sample": step.revision},
        }
        for step in sample.rounds
    ]
    return row


def revision_samples(
    revisions: Sequence[Revision], prompts: Mapping[str, Prompt], principles: Sequence[Principle]
) -> tuple[list[PaperSample], list[str]]:
    """Our revisions as samples, and a line for each thing they do not hold.

    Args:
        revisions: of a `revise` step.
        prompts: by id.
        principles: every version the revisions name; a round under one that is not here is left out.
    """
    by_ref = {principle.ref: principle for principle in principles}
    found: list[PaperSample] = []
    unknown = uncritiqued = unrevised = 0
    for revision in revisions:
        rounds = []
        for step in revision.rounds:
            if step.unrevised:
                unrevised += 1
                continue
            if step.principle not in by_ref:
                unknown += 1
                continue
            asked = paper_requests(by_ref[step.principle])
            uncritiqued += step.critique is None
            rounds.append(
                PaperRound(
                    key=step.principle,
                    critique_request=asked["prompt"][0][len(CRITIQUE[0]) : -len(CRITIQUE[1])],
                    revision_request=asked["edit_request"][len(REVISION[0]) : -len(REVISION[1])],
                    critique="" if step.critique is None else f" {step.critique}",
                    revision=f" {step.revision}",
                )
            )
        prompt = prompts[revision.prompt_id]
        turns = "".join(f"\n\n{_NAMES[message.role]}: {message.content}" for message in prompt.messages)
        found.append(
            PaperSample(
                model=revision.policy,
                prompt=f"{turns}\n\nAssistant:",
                dataset=prompt.source,
                comparison_model=None,
                initial=f" {revision.initial}",
                rounds=tuple(rounds),
            )
        )
    lost = [f"of {len(found)} revisions: seeds, flags, template digests, token counts and the critic's name"]
    lost += [f"{unrevised} rounds in which a check saw no need to revise"] if unrevised else []
    lost += [f"{unknown} rounds under principles whose text is not there"] if unknown else []
    lost += [f"that {uncritiqued} rounds had no critique: it is written as an empty one"] if uncritiqued else []
    return found, lost


def _sample(row: Row) -> PaperSample:
    model, prompt, dataset = (str(row[key]) for key in ("model", "rl_prompt", "comparison_dataset"))
    comparison = row.get("comparison_model")
    if "cst" not in row:
        answers = tuple(
            (answer["sampled_string"], tuple(score["pm_score"] for score in answer["pm_scores"]))
            for answer in row["sampled_answers"]
        )
        return PaperSample(model, prompt, dataset, comparison, answers=answers)
    rounds = tuple(
        PaperRound(
            key=step["cst_key"],
            critique_request=step["cst_value"]["prompt"][0][len(CRITIQUE[0]) : -len(CRITIQUE[1])],
            revision_request=step["cst_value"]["edit_request"][len(REVISION[0]) : -len(REVISION[1])],
            critique=step["critique"]["sample"],
            revision=step["revision"]["sample"],
        )
        for step in row["cst"]
    )
    return PaperSample(model, prompt, dataset, comparison, initial=row["initial_response"][0]["sample"], rounds=rounds)
