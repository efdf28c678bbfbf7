"""Log-probabilities of options from what a server tells of tokens.

From the likeliest first tokens (`top_logprobs`) an option's probability is that of the tokens that read as the option,
spaces around them left aside: "A" and " A" are different tokens of one answer. What is not listed is not known: it has
at most what the listed tokens leave over, and no more than the least of them. An option that is not listed is given
that bound, so that a judge is never made out surer than it is; where none is listed there is no answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from constitutional.backends.endpoint.answers import Tokens

SPLIT = 1e-3
"""Probability of a token that begins an option, from which on the option counts as one of several tokens."""

LONG = 16
"""Characters from which on an option is no single token."""


@dataclass(frozen=True)
class Read:
    """Options read from first tokens: log-probabilities, what the listed tokens leave over, who is not among them."""

    logprobs: tuple[float, ...]
    missing: float
    unlisted: tuple[int, ...]
    split: tuple[int, ...]
    """Options, not listed, whose beginning is: to be read token by token."""


def read_top(top: Tokens, options: Sequence[str]) -> Read:
    """The options' log-probabilities, in nats; `-inf` for all where none is listed."""
    listed = math.fsum(math.exp(value) for _, value in top)
    missing = max(0.0, 1 - listed)
    shares = [math.fsum(math.exp(v) for token, v in top if token.strip() == option.strip()) for option in options]
    unlisted = tuple(i for i, share in enumerate(shares) if share == 0)
    split = tuple(i for i in unlisted if _begun(top, options[i].strip()) >= SPLIT)
    if len(unlisted) == len(options):
        return Read((-math.inf,) * len(options), missing, unlisted, split)
    bound = min(missing / max(1, len(unlisted)), math.exp(min(value for _, value in top)))
    found = [share or bound for share in shares]
    return Read(tuple(math.log(p) if p > 0 else -math.inf for p in found), missing, unlisted, split)


def _begun(top: Tokens, option: str) -> float:
    """Probability of the tokens that the option begins with; a token of spaces alone begins every option."""
    return math.fsum(math.exp(v) for token, v in top if token.strip() != option and option.startswith(token.strip()))


def read_tail(prompt: Tokens, continuation: str) -> float | None:
    """The sum over the tokens at a prompt's end that are the continuation; None where none begins with it.

    That is so where a token reaches over from what stands before.
    """
    text, total = "", 0.0
    for token, value in reversed(prompt):
        text, total = token + text, total + value
        if text == continuation or (text.lstrip() == continuation.strip() and len(text) + 1 >= len(continuation)):
            return total
        if len(text) > len(continuation) + 1:
            return None
    return None
