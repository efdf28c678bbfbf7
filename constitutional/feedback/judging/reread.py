"""A judgment read again from what it keeps, so that an audit can tell whether its p follows."""

from __future__ import annotations

import json

from constitutional.feedback.judging.by_model import score_preference
from constitutional.feedback.judging.drawn import one_opinion
from constitutional.feedback.judging.score import grade_shares, superiority
from constitutional.records import Judgment, Outcome


def reread(judgment: Judgment) -> tuple[Outcome, float | None] | None:
    """(outcome, probability of `a`) of a judgment of mode `cot`, `vote`, `score` or `model`.

    None where it keeps too little to say: an error, or grades with a probability of zero.
    """
    if judgment.samples:
        return one_opinion(judgment.samples)
    if judgment.p_a is None:
        return None
    if judgment.mode == "score" and judgment.logprobs:
        half = len(judgment.logprobs) // 2
        a, b = judgment.logprobs[:half], judgment.logprobs[half:]
        return ("tie" if a == b else "preference"), superiority(grade_shares(a), grade_shares(b))
    if judgment.mode == "model":
        try:
            scores = json.loads(judgment.raw or "{}")
            return score_preference(float(scores["a"]), float(scores["b"]))
        except (ValueError, KeyError, TypeError, RecursionError):  # another text stands in their place
            return "error", None
    return None
