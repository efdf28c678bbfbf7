"""What a set of answers looks like from outside: diversity, loops, length, stock phrases.

Words are runs of letters, digits and inner apostrophes, lower-cased. Languages written without spaces come out as one
word a phrase, so these numbers compare models on one language, not languages with each other.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from constitutional.errors import DataError

_WORD = re.compile(r"\w+(?:['’]\w+)*")

Ngram = tuple[str, ...]

REPETITION_SHARE = 0.25
"""Share of repeated 4-grams from which a text counts as looping."""


def words(text: str) -> list[str]:
    """The words of a text, lower-cased, in order."""
    return [w.replace("’", "'") for w in _WORD.findall(text.lower())]


def ngrams(text: str, n: int) -> list[Ngram]:
    """The runs of `n` words of a text, overlapping, in order; none when it has fewer words.

    Raises:
        DataError: `n` below 1.
    """
    if n < 1:
        raise DataError(f"n is {n}: an n-gram has at least one word")
    tokens = words(text)
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Different n-grams divided by all n-grams of the set (Li et al. 2016, section 5.1 "distinct-n").

    Falls with the size of the set, so compare sets of equal size only. 0 when no text is `n` words long.

    Raises:
        DataError: `n` below 1.
    """
    grams = [g for text in texts for g in ngrams(text, n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def repetition(text: str, n: int = 4) -> float:
    """Share of a text's n-grams that occurred earlier in it (Welleck et al. 2020, section 6.1 "seq-rep-n").

    0 for a text without repeats or shorter than `n` words, near 1 for a degenerate loop.

    Raises:
        DataError: `n` below 1.
    """
    grams = ngrams(text, n)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def mean_length(texts: Sequence[str]) -> float:
    """Mean length in words.

    Raises:
        DataError: no texts.
    """
    if not texts:
        raise DataError("no texts: a mean length needs at least one")
    return sum(len(words(t)) for t in texts) / len(texts)


def boilerplate_share(texts: Sequence[str], n: int = 5) -> float:
    """Share of the texts that contain the one n-gram found in the most texts; 0 when no two texts share any.

    Rises towards 1 when a policy under optimisation ends (or opens) all its answers with the same phrase.

    Raises:
        DataError: `n` below 1.
    """
    holders = Counter(g for text in texts for g in set(ngrams(text, n)))
    most = max(holders.values(), default=0)
    return most / len(texts) if most > 1 else 0.0
