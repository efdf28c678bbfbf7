"""A principle that is code: an answer is easy to read when its longest sentence is short."""

from __future__ import annotations

import re
from collections.abc import Sequence

from constitutional.records import Message

WORDS = 20
"""A sentence of so many words is still easy to read."""


def short_sentences(conversation: Sequence[Message], response: str) -> float | None:
    """1 up to 20 words in the longest sentence, 0.5 (which still passes) at 40, towards 0 beyond; None without words.

    Args:
        conversation: what was said before the answer; not looked at here.
        response: the answer.
    """
    longest = max(len(sentence.split()) for sentence in re.split(r"[.!?]+", response))
    return min(1.0, WORDS / longest) if longest else None
