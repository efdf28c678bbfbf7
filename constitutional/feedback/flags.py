"""Artefact flags: what goes wrong in the revisions of small models, found by rule and recorded on the revision.

A flag never changes a text. Training may leave flagged revisions out (`sft.drop_flagged`), and the share of revisions
without a flag is the measure of a critique-and-revise set-up ("usable").
"""

from __future__ import annotations

import re
from difflib import SequenceMatcher

from constitutional.text_metrics import REPETITION_SHARE, repetition

# "Here is a revised response:", "Revised answer:", "Sure, here's ..." instead of the answer itself
_PREAMBLE = re.compile(
    r"""^\W*(?:(?:sure|certainly|of\ course|okay|ok)\W+)?
        (?:here(?:\ is|'s|\ are)\ (?:a|an|the|my|your|another)?\s*
             (?:[\w'-]+,?\ ){0,4}(?:response|answer|version|reply|revision|rewrite|suggestion|alternative)\b
         |(?:revised|rewritten|improved|new|fresh|updated|better)\ (?:response|answer|version|reply)\b\s*:
         |(?:response|answer|reply|revision|rewrite|assistant)\s*:)""",
    re.IGNORECASE | re.VERBOSE,
)
# talk about the answer instead of talk to the user: the critic's voice where the assistant's belongs
_ABOUT_THE_ANSWER = re.compile(
    r"\b(?:the|this|that|your|its|assistant's)\s+(?:\w+\s+)?(?:previous |last |first |original |above )?"
    r"(?:answer|response|reply|critique|revision|assistant)\s+(?:is|was|are|could|should|does|did|may|might|suggests?|"
    r"implies|provides?|contains?|fails?|encourages?|promotes?|can|has)\b"
    r"|\b(?:the|this) (?:assistant|response) (?:should|could|must)\b|\bcritique request\b|\brevision request\b",
    re.IGNORECASE,
)

# "I apologise for the confusion earlier": speaks of an answer that a fresh reply does not know
_EARLIER_ANSWER = re.compile(
    r"\bapologi[sz]e (?:for|if) (?:the|any|my)\b[^.]{0,40}"
    r"\b(?:confusion|misunderstanding|mistake|previous|earlier|last)"
    r"|\bsorry for (?:the|any|my) (?:\w+ )?(?:confusion|misunderstanding|mistake)"
    r"|\bmy (?:previous|last|earlier|first) (?:answer|response|reply|message)\b",
    re.IGNORECASE,
)

SAME_TEXT = 0.9
"""Similarity (difflib ratio) from which a revision counts as unchanged."""

COPIED_SHARE = 0.5
"""Share of a revision's 4-grams found in the critique from which it counts as the critique said again."""


def revision_flags(revision: str, *, answer: str, critique: str | None, truncated: bool) -> tuple[str, ...]:
    """The artefacts found in one revision, in a fixed order; empty for a usable one.

    Args:
        revision: the new answer.
        answer: the answer it revises.
        critique: the critique it follows, None for a direct revision.
        truncated: True when generation ended at its token limit.

    Returns:
        A subset of ("empty", "truncated", "preamble", "repetition", "unchanged", "role_confusion").
    """
    if not revision.strip():
        return ("empty",)
    found = {
        "truncated": truncated,
        "preamble": bool(_PREAMBLE.search(revision)),
        "repetition": repetition(revision) >= REPETITION_SHARE,
        "unchanged": _similarity(revision, answer) >= SAME_TEXT,
        "role_confusion": bool(_ABOUT_THE_ANSWER.search(revision) or _EARLIER_ANSWER.search(revision))
        or (critique is not None and _copied_share(revision, critique) >= COPIED_SHARE),
    }
    return tuple(name for name, hit in found.items() if hit)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _similarity(one: str, other: str) -> float:
    return SequenceMatcher(None, _words(one), _words(other), autojunk=False).ratio()


def _copied_share(text: str, source: str, n: int = 4) -> float:
    words, source_words = _words(text), _words(source)
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    known = {tuple(source_words[i : i + n]) for i in range(len(source_words) - n + 1)}
    return sum(gram in known for gram in grams) / len(grams) if grams else 0.0
