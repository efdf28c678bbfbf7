"""n answers to one prompt: compared each with each, ranked by Bradley-Terry, the best against the worst.

compared = sample(prompts, ..., n=4, compare="all")
preferences = label(compared, judge(compared, ...), ...)
rankings = rank_answers(compared, preferences)
pairs = best_against_worst(rankings, compared)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from constitutional.records import Comparison, Failure, Preference, Record
from constitutional.statistics.ranking import bradley_terry, strongly_connected, win_matrix


class RankedAnswers(Record):
    """The answers to one prompt from best to worst, by the soft labels of their pairs."""

    prompt_id: str
    answers: tuple[str, ...]
    ratings: tuple[float, ...]
    """Log-strengths with mean 0: one answer is better than another with probability 1 / (1 + exp(-difference))."""
    pairs: int
    """Labelled pairs the ranking rests on."""
    unlabelled: int
    """Pairs whose label abstained, or that have none."""
    ridge: float
    """Penalty the fit needed, 0 where the labels tie every answer to every other both ways."""


def rank_answers(
    comparisons: Sequence[Comparison], preferences: Sequence[Preference]
) -> Iterator[RankedAnswers | Failure]:
    """Ranks the answers of each prompt by the soft labels of their pairs.

    Args:
        comparisons: of any number of prompts; which answers were compared may differ from prompt to prompt.
        preferences: their labels.

    Yields:
        One ranking a prompt, in the order of the comparisons. A Failure `no_label` where none of a prompt's pairs has a
        label, and `not_connected` where the labelled pairs fall into groups that nothing compares.
    """
    said = {p.comparison_id: p.p_a for p in preferences if p.p_a is not None}
    by_prompt: dict[str, list[Comparison]] = {}
    for comparison in comparisons:
        by_prompt.setdefault(comparison.prompt_id, []).append(comparison)
    for prompt_id, asked in by_prompt.items():
        labelled = [c for c in asked if c.id in said]
        texts = list(dict.fromkeys(text for c in asked for text in (c.a, c.b)))
        if not labelled:
            message = f"none of {len(asked)} pairs has a label"
            yield Failure(item_id=prompt_id, stage="rank", kind="no_label", message=message)
            continue
        place = {text: i for i, text in enumerate(texts)}
        wins = win_matrix(
            len(texts),
            [place[c.a] for c in labelled],
            [place[c.b] for c in labelled],
            [said[c.id] for c in labelled],
        )
        if not strongly_connected(wins + wins.T):
            message = f"{len(labelled)} labelled pairs of {len(texts)} answers do not compare them all"
            yield Failure(item_id=prompt_id, stage="rank", kind="not_connected", message=message)
            continue
        fitted = bradley_terry(wins)
        order = fitted.order()
        yield RankedAnswers(
            prompt_id=prompt_id,
            answers=tuple(texts[i] for i in order),
            ratings=tuple(fitted.ratings[i] for i in order),
            pairs=len(labelled),
            unlabelled=len(asked) - len(labelled),
            ridge=fitted.ridge,
        )


def best_against_worst(
    rankings: Sequence[RankedAnswers], comparisons: Sequence[Comparison]
) -> Iterator[Comparison | Failure]:
    """The comparison of each ranking's best answer with its worst, as it was judged.

    Failures: `no_pair` where these two were not compared, `tie` where they are rated alike.
    """
    found = {(c.prompt_id, frozenset((c.a, c.b))): c for c in comparisons}
    for ranking in rankings:
        pair = found.get((ranking.prompt_id, frozenset((ranking.answers[0], ranking.answers[-1]))))
        if math.isclose(ranking.ratings[0], ranking.ratings[-1], abs_tol=1e-9):
            yield Failure(item_id=ranking.prompt_id, stage="rank", kind="tie", message="all answers are rated alike")
        elif pair is None:
            message = "the best and the worst answer were not compared"
            yield Failure(item_id=ranking.prompt_id, stage="rank", kind="no_pair", message=message)
        else:
            yield pair
