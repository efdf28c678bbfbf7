"""Text metrics against brute-force counts written another way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from constitutional.errors import DataError
from constitutional.text_metrics import boilerplate_share, distinct_n, mean_length, ngrams, repetition, words

small_texts = st.lists(st.lists(st.sampled_from("abc"), max_size=9).map(" ".join), max_size=6)


def brute_grams(text: str, n: int) -> list[str]:
    tokens = text.split()
    found = []
    for i in range(len(tokens)):
        gram = tokens[i : i + n]
        if len(gram) == n:
            found.append("_".join(gram))
    return found


def test_words_fold_case_and_curly_apostrophes() -> None:
    assert words("Don’t stop; it's 3 o'clock!") == ["don't", "stop", "it's", "3", "o'clock"]
    assert words(" \n…") == []


@given(small_texts, st.integers(1, 4))
def test_distinct_n_is_unique_over_total(texts: list[str], n: int) -> None:
    pool: list[str] = []
    for text in texts:
        pool += brute_grams(text, n)
    unique = [g for i, g in enumerate(pool) if g not in pool[:i]]
    assert distinct_n(texts, n) == pytest.approx(len(unique) / len(pool) if pool else 0.0)


@given(small_texts, st.integers(1, 4))
def test_repetition_counts_grams_seen_before(texts: list[str], n: int) -> None:
    for text in texts:
        pool = brute_grams(text, n)
        seen_before = sum(g in pool[:i] for i, g in enumerate(pool))
        assert repetition(text, n) == pytest.approx(seen_before / len(pool) if pool else 0.0)


@given(small_texts, st.integers(1, 4))
def test_boilerplate_share_is_the_widest_shared_gram(texts: list[str], n: int) -> None:
    pools = [brute_grams(t, n) for t in texts]
    widest = max((sum(g in p for p in pools) for pool in pools for g in pool), default=0)
    assert boilerplate_share(texts, n) == pytest.approx(widest / len(texts) if widest > 1 else 0.0)


def test_known_values() -> None:
    loop = "go on and on " * 20  # 80 words, 77 four-grams, 4 different
    assert repetition(loop) == pytest.approx(1 - 4 / 77)
    assert repetition("each word of this sentence differs from every other") == 0.0
    assert distinct_n(["a b c", "a b d"], 2) == pytest.approx(3 / 4)  # ab, bc, ab, bd
    assert mean_length(["one two", "", "three four five six"]) == pytest.approx(2.0)
    texts = ["So, I hope this helps you today.", "Fine! I hope this helps you too", "no such phrase in this one at all"]
    assert boilerplate_share(texts) == pytest.approx(2 / 3)
    assert boilerplate_share(texts[:1]) == 0.0
    assert ngrams("a b", 3) == []


def test_a_gram_repeated_inside_one_text_is_not_shared() -> None:
    assert boilerplate_share(["x y x y x y", "p q r"], 2) == 0.0


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(DataError, match="n is 0"):
        distinct_n(["a"], 0)
    with pytest.raises(DataError, match="no texts"):
        mean_length([])
