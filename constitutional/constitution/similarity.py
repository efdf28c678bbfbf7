"""Near-duplicates among many short texts: cosine of weighted character n-grams, without comparing every pair.

A gram weighs more the fewer texts hold it (the smoothed inverse document frequency of scikit-learn), so that
a phrase every request of a constitution begins with makes no two of them alike.

The search is exact. Grams are ordered from rare to common; a text's head is as many of its rarest grams as it takes for
the rest to be too light to reach the threshold alone. Two texts that reach it therefore share a gram of both heads
(Bayardo et al. 2007, "Scaling up all pairs similarity search"), and only those that do are compared.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence

from constitutional.records import Record

GRAM = 4
THRESHOLD = 0.77
"""Between the lowest pair of twenty real constitutions that asks the same (0.82) and the next one (0.72)."""

_WORD = re.compile(r"\w+")
_SLACK = 1e-9  # rounding must not lose a pair that stands exactly on the threshold

Vector = Mapping[str, float]
"""Unit length; the rarest gram first."""


class Match(Record):
    """A text and the first of the texts before it that is the same; if none is, the first that is nearly so."""

    index: int
    other: int
    similarity: float


class Search(Record):
    """All matches, and how many pairs had to be compared to find them."""

    matches: tuple[Match, ...]
    compared: int


def near_duplicates(texts: Sequence[str], threshold: float = THRESHOLD) -> Search:
    """Finds for each text the first one before it that is the same, or else nearly the same.

    Texts that differ in case, spaces and punctuation only are the same. A text without a word is like no other.

    Args:
        texts: what to compare.
        threshold: cosine in (0, 1] from which two texts are near-duplicates.
    """
    first: dict[str, int] = {}
    matches: list[Match] = []
    for index, text in enumerate(texts):
        plain = normalised(text)
        if plain and first.setdefault(plain, index) != index:
            matches.append(Match(index=index, other=first[plain], similarity=1.0))
    vectors = dict(zip(first.values(), weighted(tuple(first)), strict=True))
    holders: defaultdict[str, list[int]] = defaultdict(list)
    compared = 0
    for index, vector in vectors.items():
        head = _head(vector, threshold)
        for other in sorted({earlier for gram in head for earlier in holders[gram]}):
            compared += 1
            alike = cosine(vector, vectors[other])
            if alike >= threshold:
                matches.append(Match(index=index, other=other, similarity=min(alike, 1.0)))
                break
        for gram in head:
            holders[gram].append(index)
    return Search(matches=tuple(sorted(matches, key=lambda match: match.index)), compared=compared)


def normalised(text: str) -> str:
    """The words of a text in lower case, one space apart."""
    return " ".join(_WORD.findall(text.casefold()))


def weighted(texts: Collection[str]) -> list[Vector]:
    """Each (normalised) text as its weighted grams."""
    grams = [_grams(text) for text in texts]
    held = Counter(gram for found in grams for gram in found)
    idf = {gram: math.log((1 + len(grams)) / (1 + count)) + 1 for gram, count in held.items()}
    vectors = []
    for found in grams:
        length = math.sqrt(sum(idf[gram] ** 2 for gram in found))
        vectors.append({gram: idf[gram] / length for gram in sorted(found, key=lambda gram: (held[gram], gram))})
    return vectors


def cosine(a: Vector, b: Vector) -> float:
    """Cosine of two unit vectors."""
    small, large = (a, b) if len(a) <= len(b) else (b, a)
    return sum(weight * large[gram] for gram, weight in small.items() if gram in large)


def _grams(text: str) -> set[str]:
    padded = f" {text} "
    return {padded[i : i + GRAM] for i in range(max(1, len(padded) - GRAM + 1))}


def _head(vector: Vector, threshold: float) -> list[str]:
    head, rest = [], 1.0
    for gram, weight in vector.items():
        if rest < threshold**2 - _SLACK:
            break
        head.append(gram)
        rest -= weight**2
    return head
