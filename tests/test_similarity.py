"""Near-duplicate search against brute force with scikit-learn's weights, and how much work it does."""

import random

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer

from constitutional.constitution.similarity import GRAM, THRESHOLD, near_duplicates, normalised

LETTERS = "ab c"  # few letters: many texts that are alike


def _brute_force(texts: list[str], threshold: float) -> dict[int, tuple[int, float]]:
    """For each text the first earlier one that is the same, else the first whose cosine reaches the threshold."""
    plain = [normalised(text) for text in texts]
    distinct = list(dict.fromkeys(text for text in plain if text))
    if not distinct:
        return {}
    padded = [f" {text} ".ljust(GRAM, "\0") for text in distinct]
    table = TfidfVectorizer(analyzer="char", ngram_range=(GRAM, GRAM), binary=True, lowercase=False)
    table.set_params(token_pattern=None)
    cosines = (lambda x: (x @ x.T).toarray())(table.fit_transform(padded))
    off = cosines[~np.eye(len(distinct), dtype=bool)]
    assume(not np.any(np.abs(off - threshold) < 1e-6))  # on the edge rounding decides
    found: dict[int, tuple[int, float]] = {}
    for i, text in enumerate(plain):
        if not text:
            continue
        if text in plain[:i]:
            found[i] = (plain.index(text), 1.0)
            continue
        row = cosines[distinct.index(text)]
        near = [j for j in range(i) if plain[j] and row[distinct.index(plain[j])] >= threshold]
        if near:
            found[i] = (near[0], float(row[distinct.index(plain[near[0]])]))
    return found


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.text(alphabet=LETTERS, max_size=24), max_size=14),
    st.sampled_from([0.2031, 0.4057, 0.6007, 0.7003, 0.9013]),
)
def test_the_search_equals_brute_force(texts: list[str], threshold: float) -> None:
    expected = _brute_force(texts, threshold)
    got = {match.index: match for match in near_duplicates(texts, threshold).matches}
    assert got.keys() == expected.keys()
    for index, (other, alike) in expected.items():
        assert got[index].other == other
        assert got[index].similarity == pytest.approx(alike, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=40), max_size=12))
def test_any_text_can_be_searched(texts: list[str]) -> None:
    for match in near_duplicates(texts).matches:
        assert 0 <= match.other < match.index < len(texts) and THRESHOLD - 1e-9 <= match.similarity <= 1.0


def test_case_spaces_and_punctuation_do_not_count() -> None:
    (match,) = near_duplicates(["Which response is kind?", "?!", "which  response is KIND", "..."]).matches
    assert (match.index, match.other, match.similarity) == (2, 0, 1.0)


SYLLABLES = [a + b for a in "bdfklmnprst" for b in ("a", "e", "i", "o", "u", "an", "el", "or")]


def _requests(n: int) -> list[str]:
    """One frame for all, and five words each of a vocabulary in which, as in a language, few words are common."""
    rng = random.Random(0)
    words = ["".join(rng.choices(SYLLABLES, k=3)) for _ in range(3000)]
    common = [1 / rank for rank in range(1, len(words) + 1)]
    return [f"Which response shows the user {' '.join(rng.choices(words, common, k=5))}?" for _ in range(n)]


@pytest.mark.parametrize("n", [500, 2000])
def test_the_work_is_bounded(n: int) -> None:
    """At most one pair in fifty is compared, although all requests share their frame and many of their words."""
    texts = _requests(n)
    texts[n // 2] = texts[3].replace("shows the user", "shows user")
    search = near_duplicates(texts)
    assert (n // 2, 3) in {(match.index, match.other) for match in search.matches}
    assert 0 < search.compared <= n * (n - 1) / 2 / 50


def test_no_pair_is_compared_twice() -> None:
    rng = random.Random(0)  # twelve words, so that every text shares grams with every other
    words = ["kind", "honest", "brief", "warm", "clear", "calm", "fair", "true", "safe", "open", "wise", "firm"]
    texts = [" ".join(rng.choices(words, k=40)) for _ in range(200)]
    assert near_duplicates(texts).compared <= 200 * 199 / 2


def test_copies_cost_nothing() -> None:
    search = near_duplicates(["Which response is kind?"] * 2000)
    assert len(search.matches) == 1999 and search.compared == 0
