"""Mode `vote`: verdicts are drawn as text and counted, for models that give no log-probabilities.

A verdict is read strictly: the first line that is not blank must be nothing but the verdict ("A", "(B).", "Answer: A",
"Response B"). A longer sentence is not read, however clear it is to a person: what cannot be read is counted, and a
rule that guesses would be a second judge. p is the share of the verdicts read that are for an answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from constitutional.backends import Backend
from constitutional.feedback.judging.drawn import Drawn, cost, declines, draw, no_room, one_opinion
from constitutional.feedback.judging.ways import TOO_LONG, Question, Told, Way
from constitutional.records import JudgmentSample, Outcome
from constitutional.templates import TemplatePack

_PAD = " \t()[]:.,!*_\"'`"


def ask_vote(questions: Sequence[Question], backend: Backend, pack: TemplatePack, way: Way) -> list[Told]:
    """The share of `way.samples` verdicts that are for `a`; the unread and the declined ones stay among the samples."""
    drawn = draw(questions, backend, way, pack.stop)
    return [_told(question, row, pack.options) for question, row in zip(questions, drawn, strict=True)]


def verdict(text: str, options: tuple[str, str]) -> int | None:
    """0 for the first option, 1 for the second; None where the text's first line is not just a verdict."""
    line = next((line for line in text.splitlines() if line.strip()), "")[:200]
    letters = [option.strip(_PAD) for option in options]
    named = r"(?i:(?:the )?(?:(?:final|best|better) )?(?:answer|verdict|response|option|choice)(?: is)?[\s:]+)"
    found = re.fullmatch(rf"{named}{{0,2}}\W*({'|'.join(map(re.escape, letters))})", line.strip(_PAD))
    return None if found is None else letters.index(found[1])


def _told(question: Question, drawn: Sequence[Drawn], options: tuple[str, str]) -> Told:
    samples = []
    for completion, seed in drawn:
        if completion is None:
            samples.append(no_room(seed))
            continue
        chosen = verdict(completion.text, options)
        outcome: Outcome = "preference"
        if chosen is None:
            outcome = "refused" if declines(completion.text) else "invalid"
        samples.append(
            JudgmentSample(
                text=completion.text,
                finish_reason=completion.finish_reason,
                outcome=outcome,
                p_a=question.turned(None if chosen is None else 1.0 - chosen),
                seed=seed,
            )
        )
    outcome, p_a = one_opinion(samples)
    error = TOO_LONG if outcome == "error" else None
    return Told(outcome, p_a, samples=tuple(samples), usage=cost(drawn), error=error)
