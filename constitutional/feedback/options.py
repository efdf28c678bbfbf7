"""Reading a judge's options: the log-probabilities of two continuations turned into a probability."""

from __future__ import annotations

import math
from collections.abc import Sequence

from constitutional.records import Outcome

MIN_MASS = 0.01
"""Options that together hold less probability than this were not what the model was about to say: `invalid`."""

OPTION_TOKENS = 8
"""Room kept for an option: far more than " (A)" takes."""


def option_probability(logprobs: Sequence[float]) -> tuple[Outcome, float | None, float | None]:
    """(outcome, probability of the first option, mass of both) from two options' log-probabilities in nats."""
    first, second = logprobs
    if math.isnan(first) or math.isnan(second):
        return "error", None, None
    mass = math.exp(min(first, 0.0)) + math.exp(min(second, 0.0))
    if mass < MIN_MASS:
        return "invalid", None, mass
    p = 1 / (1 + math.exp(min(max(second - first, -700.0), 700.0)))
    return ("tie" if first == second else "preference"), p, min(mass, 1.0)
