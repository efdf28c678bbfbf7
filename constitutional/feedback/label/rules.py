"""The label rules: from the opinions on one comparison to one p, or to none and why.

Every rule gives the same label whatever order the judgments come in, and turns p to 1 - p when a and b change places.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Literal

from constitutional.feedback.label.opinions import ROUNDING, Opinion, side
from constitutional.principles import Principle
from constitutional.records import seed_for

Rule = Literal["sampled", "mean", "weighted", "tiers", "veto", "dominant", "calibrated"]

Weights = Mapping[str, float]
"""Weights by `id@version`."""


@dataclass(frozen=True)
class Heard:
    """What was heard of one comparison: opinions in the constitution's order, and why there is none where none is."""

    comparison_id: str
    opinions: tuple[Opinion, ...]
    unread: Set[str]
    """Principles whose judgments failed and that have no opinion."""
    unheard: str


@dataclass(frozen=True)
class Terms:
    """What the rules go by beside the opinions."""

    principles: Sequence[Principle]
    margin: float = 0.1
    seed: int = 0
    veto: int | tuple[str, ...] = 1
    weights: Weights | None = None
    """Those of the rule `calibrated`."""

    def share(self, rule: str) -> Weights | None:
        """The weights that a rule counts opinions with; None where it counts them alike."""
        if rule == "calibrated":
            return self.weights
        return {p.ref: p.weight for p in self.principles} if rule == "weighted" else None

    def has_veto(self, principle: Principle) -> bool:
        """Whether a principle is named, by its id or its tier, to decide alone in the rule `veto`."""
        return principle.tier == self.veto if isinstance(self.veto, int) else principle.id in self.veto


Chosen = tuple[Sequence[Opinion], str]
"""The opinions that decide; none, and why."""


def deciding(rule: Rule, heard: Heard, terms: Terms) -> Chosen:
    """The opinions that a rule makes the label from."""
    return _RULES[rule](heard, terms)


def combined(opinions: Sequence[Opinion], rule: str, weights: Weights | None) -> float:
    """One p from the opinions that decide: their (weighted) mean; of fitted weights, the logistic of their sum.

    Args:
        opinions: at least one.
        rule: `calibrated` or any other.
        weights: of the principles; None counts all alike.

    Returns:
        Exactly one half where it differs from that by rounding alone: such a label prefers no answer.
    """
    if rule == "calibrated":
        assert weights is not None
        p = logistic(math.fsum(weights[o.principle] * signal(o.p_a) for o in opinions))
    else:
        share = [1.0 if weights is None else weights.get(o.principle, 1.0) for o in opinions]
        p = sum(w * o.p_a for w, o in zip(share, opinions, strict=True)) / sum(share)
    return p if side(p) else 0.5


def shares(principles: Sequence[str], weights: Weights | None) -> dict[str, float]:
    """The share each of a label's principles has in it; of fitted weights, which may be negative, by their size."""
    sizes = {ref: 1.0 if weights is None else abs(weights.get(ref, 1.0)) for ref in principles}
    whole = math.fsum(sizes.values())
    return {ref: size / whole if whole else 0.0 for ref, size in sizes.items()}


def signal(p: float) -> float:
    """An opinion as the number that fitted weights multiply, -1 to 1; 0 says nothing."""
    return 2 * p - 1


def logistic(x: float) -> float:
    """1 / (1 + e^-x), without overflow."""
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def _all(heard: Heard, terms: Terms) -> Chosen:
    return heard.opinions, heard.unheard


def _sampled(heard: Heard, terms: Terms) -> Chosen:
    if not heard.opinions:
        return (), heard.unheard
    return [random.Random(seed_for(terms.seed, "label", heard.comparison_id)).choice(heard.opinions)], ""


def _tiers(heard: Heard, terms: Terms) -> Chosen:
    """The opinions of the highest tier whose mean is `margin` or more from one half.

    A tier that could not be read in full decides by its other opinions, or stops the search.
    """
    tiers = {principle.ref: principle.tier for principle in terms.principles}
    for tier in sorted(set(tiers.values())):
        given = [opinion for opinion in heard.opinions if tiers[opinion.principle] == tier]
        if given and _decisive(math.fsum(opinion.p_a for opinion in given) / len(given), terms.margin):
            return given, ""
        if any(tiers.get(ref) == tier for ref in heard.unread):
            return (), f"tier {tier} could not be read"
    return (), f"no tier is {terms.margin} or more from one half" if heard.opinions else heard.unheard


def _veto(heard: Heard, terms: Terms) -> Chosen:
    """The opinions of the vetoing principles that are decisive, where they reject the same answer; else all."""
    holders = {principle.ref for principle in terms.principles if terms.has_veto(principle)}
    against = [o for o in heard.opinions if o.principle in holders and side(o.p_a)]
    cast = [o for o in against if _decisive(o.p_a, terms.margin)]
    if len({side(o.p_a) for o in cast}) > 1:
        return (), "both answers are vetoed"
    if not cast and (unread := sorted(holders & heard.unread)):
        return (), f"{unread[0]}, which has a veto, could not be read"
    return (cast, "") if cast else _all(heard, terms)


def _dominant(heard: Heard, terms: Terms) -> Chosen:
    """The opinion farthest from one half; of several equally far, all where they prefer the same answer."""
    farthest = max((abs(o.p_a - 0.5) for o in heard.opinions), default=0.0)
    found = [o for o in heard.opinions if abs(o.p_a - 0.5) >= farthest - ROUNDING]
    if {side(o.p_a) for o in found} == {-1, 1}:
        return (), "the most decisive principles contradict one another"
    return found, heard.unheard


def _calibrated(heard: Heard, terms: Terms) -> Chosen:
    assert terms.weights is not None
    found = [o for o in heard.opinions if terms.weights.get(o.principle)]
    return found, "no principle it was judged under has a fitted weight" if heard.opinions else heard.unheard


def _decisive(p: float, margin: float) -> bool:
    return abs(p - 0.5) >= margin - ROUNDING


_RULES: dict[Rule, Callable[[Heard, Terms], Chosen]] = {
    "sampled": _sampled,
    "mean": _all,
    "weighted": _all,
    "tiers": _tiers,
    "veto": _veto,
    "dominant": _dominant,
    "calibrated": _calibrated,
}
