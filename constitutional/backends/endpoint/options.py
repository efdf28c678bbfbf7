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

ROUNDING = 1e-3
"""Probability that rounding may hide: what the listed tokens leave over is not known more closely."""

FLOOR = -9999.0
"""Nats: the least log-probability, as OpenAI writes it; infinity is no number a record can hold."""

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
    """The options' log-probabilities, in nats, none below `FLOOR`; `-inf` for all where none is listed."""
    missing = max(0.0, 1 - math.fsum(math.exp(value) for _, value in top))
    shares = [[value for token, value in top if token.strip() == option.strip()] for option in options]
    unlisted = tuple(i for i, share in enumerate(shares) if not share)
    # what stands at the floor is no evidence: `_bound` leaves it out, and another, not listed, would be sure beside it
    known = any(math.exp(value) for share in shares for value in share)  # 0 of what is next to impossible
    split = tuple(i for i in unlisted if _begun(top, options[i].strip(), blank=not known) >= SPLIT)
    if not known:
        return Read((-math.inf,) * len(options), missing, unlisted, split)
    bound = _bound(top, missing, len(unlisted))
    return Read(tuple(_sum(share) if share else bound for share in shares), missing, unlisted, split)


def _sum(logs: Sequence[float]) -> float:
    """The log-probability of any of these; servers write `FLOOR` for what is next to impossible."""
    total = math.fsum(map(math.exp, logs))
    return max(FLOOR, math.log(total) if total else max(logs))


def _bound(top: Tokens, missing: float, unlisted: int) -> float:
    """The most that each of so many options, not listed, can have.

    Where the list adds up to one within rounding, what is left over is not known any better than that.
    """
    least = min((value for _, value in top if value > FLOOR), default=FLOOR)
    return min(least, math.log(max(missing, ROUNDING) / max(1, unlisted)))


def _begun(top: Tokens, option: str, *, blank: bool) -> float:
    """Probability of the tokens that the option begins with, and of blank ones, which begin every option, if wanted.

    Where another option is listed a blank token, often a line break, tells nothing of this one.
    """
    begins = [(token.strip(), v) for token, v in top if option.startswith(token.strip())]
    return math.fsum(math.exp(v) for token, v in begins if token != option and (token or blank))


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
