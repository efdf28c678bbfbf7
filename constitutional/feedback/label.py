"""Soft labels: a pure function of the ledger, so that a new rule costs no model call.

A principle's opinion on a comparison is the mean of p over both orders, which cancels a constant position bias; an
opinion that lacks one order is left out, and so are ties of a check and principles that do not apply. Rules: `sampled`
takes one random principle per comparison (Bai et al. 2022, section 4.1), `mean` the average over principles,
`weighted` the average by the principles' weights, `tiers` the average over the highest tier that is decisive. A tier
that could not be read is not left open: none below it decides in its place.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, replace
from typing import Literal

from constitutional.principles import Principle
from constitutional.records import Comparison, Judgment, Outcome, Preference, seed_for

Rule = Literal["sampled", "mean", "weighted", "tiers"]

Clamp = tuple[float, float] | None
"""Least and greatest p of an opinion that was reasoned; None clamps nothing."""

CLAMP: Clamp = (0.4, 0.6)

_FAILED: frozenset[Outcome] = frozenset({"refused", "invalid", "error"})
_ROUNDING = 1e-12  # 0.6 - 0.5 is less than 0.1 in floating point


@dataclass(frozen=True)
class Opinion:
    """What one principle says of one comparison, over both orders."""

    principle: str
    p_a: float
    judgment_ids: tuple[str, str]
    consistent: bool
    """True when both orders prefer the same answer."""
    reasoned: bool = False
    """True when the judge reasoned before its verdict (mode `cot`): only such opinions are clamped."""


def opinions(judgments: Iterable[Judgment]) -> dict[str, list[Opinion]]:
    """Opinions per comparison id, in the order the judgments come; unusable and one-sided judgments give none."""
    usable: dict[tuple[str, str], dict[str, Judgment]] = {}
    for judgment in judgments:
        if judgment.p_a is not None:
            usable.setdefault((judgment.comparison_id, judgment.principle), {})[judgment.order] = judgment
    found: dict[str, list[Opinion]] = {}
    for (comparison_id, principle), by_order in usable.items():
        if len(by_order) == 2:
            ab, ba = by_order["ab"], by_order["ba"]
            assert ab.p_a is not None and ba.p_a is not None
            found.setdefault(comparison_id, []).append(
                Opinion(
                    principle, (ab.p_a + ba.p_a) / 2, (ab.id, ba.id), (ab.p_a > 0.5) == (ba.p_a > 0.5), ab.mode == "cot"
                )
            )
    return found


def clamped(opinion: Opinion, clamp: Clamp) -> Opinion:
    """The opinion with p no lower and no higher than the ends of `clamp`, where the judge reasoned first.

    A reasoning makes a judge far surer than it is right: Bai et al. 2022, section 4.1, train on 0.4 to 0.6.
    """
    if not opinion.reasoned or clamp is None:
        return opinion
    return replace(opinion, p_a=min(max(opinion.p_a, clamp[0]), clamp[1]))


def label(
    comparisons: Sequence[Comparison],
    judgments: Iterable[Judgment],
    *,
    principles: Sequence[Principle],
    rule: Rule = "mean",
    margin: float = 0.1,
    seed: int = 0,
    clamp: Clamp = CLAMP,
) -> Iterator[Preference]:
    """One Preference per comparison; one without a usable opinion abstains and says so, it is never 0.5.

    Args:
        comparisons: what is to be labelled.
        judgments: of these comparisons, and maybe of others.
        principles: those whose opinions count.
        rule: how opinions become one label.
        margin: of the rule `tiers`: the tier of lowest number whose mean opinion is at least this far from one half
            decides alone. Where none is, or one that could not be read in full is not, the label abstains.
        seed: of the draws of the rule `sampled`.
        clamp: ends of the opinions of a judge that reasons first (`clamped`); all others stay as they are.
    """
    weights = {principle.ref: principle.weight for principle in principles}
    judgments = list(judgments)
    by_comparison, silent, failed = opinions(judgments), _silent(judgments), _failed(judgments)
    for comparison in comparisons:
        found = [clamped(o, clamp) for o in by_comparison.get(comparison.id, []) if o.principle in weights]
        why = _why(silent.get(comparison.id, set()))
        if rule == "sampled" and found:
            found = [random.Random(seed_for(seed, "label", comparison.id)).choice(found)]
        elif rule == "tiers":
            unread = failed.get(comparison.id, set()) - {o.principle for o in found}
            found, why = _decisive(found, unread, principles, margin, why)
        if not found:
            yield Preference(
                comparison_id=comparison.id,
                p_a=None,
                rule=rule,
                judgment_ids=(),
                principles=(),
                abstained=why,
            )
            continue
        share = [weights[o.principle] if rule == "weighted" else 1.0 for o in found]
        p_a = sum(w * o.p_a for w, o in zip(share, found, strict=True)) / sum(share)
        same_side = sum((o.p_a >= 0.5) == (p_a >= 0.5) for o in found)
        yield Preference(
            comparison_id=comparison.id,
            p_a=p_a,
            rule=rule,
            judgment_ids=tuple(i for o in found for i in o.judgment_ids),
            principles=tuple(o.principle for o in found),
            agreement=same_side / len(found),
        )


def _decisive(
    found: Sequence[Opinion], unread: Set[str], principles: Sequence[Principle], margin: float, unheard: str
) -> tuple[list[Opinion], str]:
    """The opinions of the highest tier whose mean is at least `margin` from one half; else none, and why.

    Args:
        found: the opinions.
        unread: principles whose judgments failed. Their tier decides by its other opinions or stops the search.
        principles: all that count.
        margin: the distance.
        unheard: why, where there is no opinion at all and none failed.
    """
    tiers = {principle.ref: principle.tier for principle in principles}
    for tier in sorted(set(tiers.values())):
        given = [opinion for opinion in found if tiers[opinion.principle] == tier]
        if given and abs(sum(opinion.p_a for opinion in given) / len(given) - 0.5) >= margin - _ROUNDING:
            return given, ""
        if any(tiers.get(ref) == tier for ref in unread):
            return [], f"tier {tier} could not be read"
    return [], f"no tier is {margin} or more from one half" if found else unheard


def _failed(judgments: Iterable[Judgment]) -> dict[str, set[str]]:
    """Per comparison id, the principles of the judgments that failed."""
    found: dict[str, set[str]] = {}
    for judgment in judgments:
        if judgment.outcome in _FAILED:
            found.setdefault(judgment.comparison_id, set()).add(judgment.principle)
    return found


def _silent(judgments: Iterable[Judgment]) -> dict[str, set[Outcome]]:
    """Per comparison id, the outcomes of the judgments that give no number."""
    found: dict[str, set[Outcome]] = {}
    for judgment in judgments:
        if judgment.p_a is None:
            found.setdefault(judgment.comparison_id, set()).add(judgment.outcome)
    return found


def _why(outcomes: set[Outcome]) -> str:
    """Why there is no label, from the outcomes of a comparison's judgments without a number."""
    if outcomes == {"not_applicable"}:
        return "no principle it was judged under applies"
    if outcomes == {"tie"}:
        return "the checks it was judged by score both answers alike"
    if outcomes == {"tie", "not_applicable"}:
        return "the principles it was judged under do not apply or score both answers alike"
    return "no principle was judged in both orders"


def label_by_origin(comparisons: Sequence[Comparison], *, contrast: float = 1.0) -> Iterator[Preference]:
    """Labels without a judge, by where the answers come from; `a` is preferred.

    `provenance`: a revision over the answer it revises, for certain. `contrast`: a helpful answer over a reply to
    another prompt.

    Args:
        comparisons: what is to be labelled.
        contrast: the p of contrast pairs. Beside judged labels it is best the judge's own (`sureness`): pairs that are
            certain outweigh any number of judgments, and a preference model learns from them alone (docs/LOG.md).
    """
    for comparison in comparisons:
        rule, p_a = ("contrast", contrast) if comparison.origin == "contrast" else ("provenance", 1.0)
        yield Preference(comparison_id=comparison.id, p_a=p_a, rule=rule, judgment_ids=(), principles=())
