"""Near-duplicates among many short texts: cosine of weighted character n-grams, without comparing every pair.

A gram weighs more the fewer texts hold it (the smoothed inverse document frequency of scikit-learn), so that a phrase
every request of a constitution begins with makes no two of them alike.

The search is exact. Grams are ordered from rare to common; a text's head is as many of its rarest grams as it takes for
the rest to be too light to reach the threshold alone. Two texts that reach it therefore share a gram of both heads
(Bayardo et al. 2007, "Scaling up all pairs similarity search"), and only those that do are compared.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from scipy import sparse

from constitutional.records import Record

GRAM = 4
THRESHOLD = 0.77
"""Between the lowest pair of twenty real constitutions that asks the same (0.82) and the next one (0.72)."""

_WORD = re.compile(r"\w+")
_SLACK = 1e-9  # rounding must not lose a pair that stands exactly on the threshold


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
    if len(first) < 2:
        return Search(matches=tuple(matches), compared=0)
    places = list(first.values())
    table = weighted(tuple(first))
    heads = _heads(table, threshold)
    meeting = sparse.tril(heads @ heads.T, k=-1, format="csr")
    for row in np.flatnonzero(np.diff(meeting.indptr)):
        earlier = np.sort(meeting.indices[meeting.indptr[row] : meeting.indptr[row + 1]])
        alike = table[earlier] @ table[[row]].toarray().ravel()
        near = np.flatnonzero(alike >= threshold)
        if len(near):
            found = min(float(alike[near[0]]), 1.0)
            matches.append(Match(index=places[row], other=places[earlier[near[0]]], similarity=found))
    return Search(matches=tuple(sorted(matches, key=lambda match: match.index)), compared=int(meeting.nnz))


def normalised(text: str) -> str:
    """The words of a text in lower case, one space apart."""
    return " ".join(_WORD.findall(text.casefold()))


def weighted(texts: Collection[str]) -> Any:
    """The (normalised) texts as unit rows of a sparse matrix, a column a gram, the rarest gram first."""
    grams = [_grams(text) for text in texts]
    held = Counter(gram for found in grams for gram in found)
    order = sorted(held, key=lambda gram: (held[gram], gram))
    column = {gram: i for i, gram in enumerate(order)}
    columns = np.concatenate([np.sort([column[gram] for gram in found]) for found in grams])
    starts = np.cumsum([0, *map(len, grams)])
    counts = np.array([held[gram] for gram in order])
    weights = (np.log((1 + len(grams)) / (1 + counts)) + 1)[columns]
    lengths = np.sqrt(np.add.reduceat(weights**2, starts[:-1]))
    rows = (weights / np.repeat(lengths, np.diff(starts)), columns, starts)
    return sparse.csr_matrix(rows, shape=(len(grams), len(order)))


def _grams(text: str) -> set[str]:
    padded = f" {text} "
    return {padded[i : i + GRAM] for i in range(max(1, len(padded) - GRAM + 1))}


def _heads(table: Any, threshold: float) -> Any:
    """A 1 for each entry of a row that, with all after it, is heavy enough to reach the threshold."""
    squares = table.data**2
    before = np.cumsum(squares) - squares
    before -= np.repeat(before[table.indptr[:-1]], np.diff(table.indptr))
    heads = table.copy()
    heads.data = (1 - before >= threshold**2 - _SLACK).astype(np.int32)
    heads.eliminate_zeros()
    return heads
