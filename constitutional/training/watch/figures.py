"""What a set of answers looks like, in figures a rule can bound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import fsum, sqrt

from constitutional.text_metrics import Ngram, distinct_n, repetition
from constitutional.training.watch.phrases import boilerplate, spread


def answer_figures(texts: Sequence[str], prompts: Sequence[str], before: Mapping[Ngram, float]) -> dict[str, float]:
    """Figures of some answers, at least one.

    Args:
        texts: the answers.
        prompts: the prompt of each.
        before: `phrases.holders` of the starting policy's answers.

    Returns:
        `repetition`: mean share of an answer's 4-grams that stood in it before. `distinct_2`: different pairs of words
        of all pairs in the set; falls with the size of the set. `empty`: share of answers without a character.
        `boilerplate`: by how much a phrase spread over the answers.
    """
    return {
        "repetition": fsum(repetition(text) for text in texts) / len(texts),
        "distinct_2": distinct_n(texts, 2),
        "empty": sum(not text.strip() for text in texts) / len(texts),
        "boilerplate": boilerplate(spread(texts, prompts, before)),
    }


def standard_error(values: Sequence[float | None]) -> float | None:
    """Of the mean of those that are there, over the prompts they are for; None of fewer than two."""
    present = [value for value in values if value is not None]
    if len(present) < 2:
        return None
    middle = fsum(present) / len(present)
    return sqrt(fsum((value - middle) ** 2 for value in present) / (len(present) - 1) / len(present))


def mean(values: Sequence[float | None]) -> float | None:
    """The mean of those that are there; None where none is."""
    present = [value for value in values if value is not None]
    return fsum(present) / len(present) if present else None
