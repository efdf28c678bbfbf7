"""What the modes that draw share: drawing samples, reading a refusal to judge, and one opinion out of many samples."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from math import fsum

from constitutional.backends import Backend
from constitutional.feedback.judging.ways import Question, Way
from constitutional.feedback.respond import generate_fitting
from constitutional.records import Completion, JudgmentSample, Outcome, Sampling, Usage, seed_for

_DECLINES = re.compile(
    r"^\W*(?:(?:i am|i'm) )?(?:(?:very |so |truly )?sorry|(?:i )?apologi[sz]e|unfortunately)\b[^.!?\n]{0,60}?"
    r"\b(?:can't|cannot|can not|won't|will not|unable|not able|not comfortable|must decline)\b"
    r"|^\W*(?:as an? (?:\w+ )?(?:ai|language model|assistant)\b[^.!?\n]{0,40}?)?i(?: am|'m)? (?:sorry,? (?:but )?i )?"
    r"(?:can't|cannot|can not|won't|will not|am unable|unable|not able|not comfortable|must decline|decline|refuse|"
    r"(?:would|'d) (?:rather|prefer) not)\b",
    re.IGNORECASE,
)


def declines(text: str) -> bool:
    """Whether a judge's reply begins by declining to judge ("I'm sorry, but I can't ..."); English only."""
    return bool(_DECLINES.search(text[:300].replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")))


Drawn = tuple[Completion | None, int]
"""A text, None where the question leaves no room for it, and the seed of its draw."""


def draw(questions: Sequence[Question], backend: Backend, way: Way, stop: tuple[str, ...]) -> list[list[Drawn]]:
    """`way.samples` texts for each question, each number of sample in one batch with a seed of its own."""
    assert way.sampling is not None
    rows: list[list[Drawn]] = [[] for _ in questions]
    for number in range(way.samples):
        seed = seed_for(way.sampling.seed, "judge", way.mode, number)
        settings: Sampling = way.sampling.model_copy(update={"seed": seed, "stop": stop})
        completions = generate_fitting(backend, [question.dialogue for question in questions], settings)
        for row, completion in zip(rows, completions, strict=True):
            row.append((None if isinstance(completion, str) else completion, seed))
    return rows


def cost(drawn: Sequence[Drawn], prompt_tokens: int = 0) -> Usage:
    """What the draws cost, and `prompt_tokens` besides."""
    made = [completion for completion, _ in drawn if completion is not None]
    return Usage(
        prompt_tokens=prompt_tokens + sum(completion.prompt_tokens for completion in made),
        completion_tokens=sum(completion.completion_tokens for completion in made),
    )


def no_room(seed: int) -> JudgmentSample:
    """The sample of a question that does not fit."""
    return JudgmentSample(text="", finish_reason=None, outcome="error", p_a=None, seed=seed)


def one_opinion(samples: Sequence[JudgmentSample]) -> tuple[Outcome, float | None]:
    """(outcome, probability of `a`): the mean over the samples that could be read.

    Where none could, it is `error` if all are errors, `refused` if at least half of the others declined, else
    `invalid`.
    """
    read = [sample.p_a for sample in samples if sample.p_a is not None]
    if read:
        p_a = fsum(read) / len(read)
        return ("tie" if p_a == 0.5 else "preference"), p_a
    outcomes = Counter(sample.outcome for sample in samples)
    answered = len(samples) - outcomes["error"]
    if not answered:
        return "error", None
    return ("refused" if 2 * outcomes["refused"] >= answered else "invalid"), None
