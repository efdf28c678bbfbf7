"""Mode `model`: a trained preference model judges; p is the logistic function of the difference of its two scores.

It reads no principle: its opinion of a comparison is the same under all of them, and in both orders. It is recorded
under each principle that the comparison was to be judged under, so that gate, labels and audit read it as any other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from constitutional.feedback.judging.ways import Question, Scorer, Told
from constitutional.records import Outcome, assistant


def ask_model(questions: Sequence[Question], scorer: Scorer) -> list[Told]:
    """Opinions from scores; each distinct answer is scored once. The scores stand in `raw`."""
    texts = {
        (question.comparison.prompt_id, text): (*question.comparison.messages, assistant(text))
        for question in questions
        for text in (question.comparison.a, question.comparison.b)
    }
    scores = dict(zip(texts, scorer.score(list(texts.values())), strict=True)) if texts else {}
    told = []
    for question in questions:
        prompt_id = question.comparison.prompt_id
        a, b = scores[prompt_id, question.comparison.a], scores[prompt_id, question.comparison.b]
        outcome, p_a = score_preference(a, b)
        told.append(Told(outcome, p_a, said={"a": a, "b": b}))
    return told


def score_preference(a: float, b: float) -> tuple[Outcome, float]:
    """(outcome, probability that `a` is better) from two scores whose difference is a log-odds (Bradley-Terry)."""
    gap = min(max(b - a, -700.0), 700.0)
    return ("tie" if a == b else "preference"), 1 / (1 + math.exp(gap))
