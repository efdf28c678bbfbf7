"""The check `complete`: an answer that is all there, and not a loop."""

from __future__ import annotations

import re

from constitutional.records import Dialogue
from constitutional.text_metrics import REPETITION_SHARE, repetition

FEW_WORDS = 12
"""A last line of at most so many words may be a list item, or the whole answer, and need no full stop."""

# What closes a sentence, a bracket, a quotation, a table row, a formula, or a code span.
_CLOSED = re.compile(r"""[.!?…:;。！？।؟)\]}|$>"'”’»*_`]$""")
_FENCE = re.compile(r"^ {0,3}(?:```|~~~)", re.MULTILINE)
_ITEM = re.compile(r"[-*+•]\s|\d+[.)]\s")
# words that no sentence ends with
_OPEN_WORDS = frozenset(
    {"a", "an", "the", "and", "or", "but", "nor", "because", "if", "than", "my", "your", "our", "their"}
)


def complete(conversation: Dialogue, response: str) -> float:
    """1 for an answer that ends where it was meant to end and does not repeat itself, else 0.

    Cut off is an empty answer, an open code fence, or a last line that ends in the middle of a sentence. A short
    answer ("Paris"), a short list item, a name under a letter, a link and an emoji need no full stop. Repetitive is an
    answer of whose 4-grams a quarter or more occurred in it before (as in the artefact flag `repetition`).

    Nobody who reads the text alone can see a cut behind a full stop; a record's `finish_reason` tells of it. Words are
    told apart by spaces and the words that end no sentence are English.
    """
    text = response.strip()
    if not text or repetition(text) >= REPETITION_SHARE or len(_FENCE.findall(text)) % 2:
        return 0.0
    *before, last = [line.strip() for line in text.splitlines() if line.strip()]
    return float(_ends(last, before[-1] if before else None))


def _ends(line: str, before: str | None) -> bool:
    """Whether an answer may end with this line; `before` is the line above, None when there is none."""
    words = line.split()
    if _CLOSED.search(line) or "://" in words[-1]:
        return True
    if not line[-1].isalnum():
        return line[-1] not in "、，" and ord(line[-1]) > 0x2100  # emoji and other signs, but no comma and no dash
    if words[-1].lower() in _OPEN_WORDS or len(words) > FEW_WORDS:
        return False
    return before is None or bool(_ITEM.match(line)) or before.endswith(",")
