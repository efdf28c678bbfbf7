"""Boilerplate: phrases that spread over a policy's answers beyond what the starting policy used.

A phrase is a run of five words, as long as "valid, valued, and cared for". What answers to one prompt share may be the
prompt's own words, so a phrase counts only where it stands in answers to two prompts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from constitutional.text_metrics import Ngram, ngrams
from constitutional.training.watch.records import Phrase

WORDS = 5
_OVERLAP = 3  # words two phrases may not share in a row to be told as two


def holders(texts: Sequence[str]) -> dict[Ngram, float]:
    """The share of the texts that hold each phrase, once or more often."""
    found: dict[Ngram, int] = defaultdict(int)
    for text in texts:
        for gram in set(ngrams(text, WORDS)):
            found[gram] += 1
    return {gram: count / len(texts) for gram, count in found.items()}


def spread(texts: Sequence[str], prompts: Sequence[str], before: Mapping[Ngram, float]) -> list[Phrase]:
    """Phrases in answers to two prompts or more that more answers hold than of the starting policy's.

    Args:
        texts: answers.
        prompts: the prompt of each.
        before: `holders` of the starting policy's answers.

    Returns:
        The one that spread furthest first; of equals, in alphabetical order.
    """
    asked: dict[Ngram, set[str]] = defaultdict(set)
    for text, prompt in zip(texts, prompts, strict=True):
        for gram in set(ngrams(text, WORDS)):
            asked[gram].add(prompt)
    found = [
        Phrase(words=" ".join(gram), share=share, before=before.get(gram, 0.0))
        for gram, share in holders(texts).items()
        if len(asked[gram]) > 1 and share > before.get(gram, 0.0)
    ]
    return sorted(found, key=lambda phrase: (phrase.before - phrase.share, phrase.words))


def boilerplate(phrases: Sequence[Phrase]) -> float:
    """By how much the phrase that spread furthest did, as a share of the answers; 0 where none did."""
    return phrases[0].share - phrases[0].before if phrases else 0.0


def different(phrases: Sequence[Phrase], most: int) -> tuple[Phrase, ...]:
    """The first phrases that are not mostly the same words moved by one."""
    chosen: list[Phrase] = []
    seen: set[Ngram] = set()
    for phrase in phrases:
        parts = set(ngrams(phrase.words, _OVERLAP))
        if not parts & seen:
            chosen.append(phrase)
            seen |= parts
        if len(chosen) == most:
            break
    return tuple(chosen)
