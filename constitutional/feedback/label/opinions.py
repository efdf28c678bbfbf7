"""What each principle says of each comparison: the mean of p over both orders, which cancels constant position bias."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from constitutional.records import Judgment, Outcome

Reading = Callable[[Judgment], float | None]
"""The p of a that a judgment counts with; None where it gives no number."""

Clamp = tuple[float, float] | None
"""Least and greatest p of an opinion that was reasoned; None clamps nothing."""

CLAMP: Clamp = (0.4, 0.6)

ROUNDING = 1e-12
"""0.6 - 0.5 is less than 0.1 in floating point, and 1 - p is not always exact."""

_FAILED: frozenset[Outcome] = frozenset({"refused", "invalid", "error"})


@dataclass(frozen=True)
class Opinion:
    """What one principle says of one comparison, over both orders."""

    principle: str
    p_a: float
    judgment_ids: tuple[str, str]
    consistent: bool
    """True when both orders prefer the same answer; a p of one half prefers none."""
    gap: float = 0.0
    """How far p moves when the order is turned, 0 to 1."""
    mass: float | None = None
    """Mean mass of the options over both orders; None of a check, which has no options."""
    reasoned: bool = False
    """True when the judge reasoned before its verdict (mode `cot`): only such opinions are clamped."""
    same_position: bool = False
    """True when both orders prefer the answer that stands in the same position."""


def side(p: float) -> int:
    """Which answer a p prefers: 1 for a, -1 for b, 0 for neither."""
    return 0 if abs(p - 0.5) <= ROUNDING else 1 if p > 0.5 else -1


def same_answer(p_ab: float, p_ba: float) -> bool:
    """Whether both orders prefer the same answer, and prefer one."""
    return side(p_ab) * side(p_ba) > 0


def as_stored(judgment: Judgment) -> float | None:
    """The p of the ledger."""
    return judgment.p_a


def opinions(judgments: Iterable[Judgment], reading: Reading = as_stored) -> dict[str, list[Opinion]]:
    """Opinions per comparison id, in the order the judgments come; unusable and one-sided judgments give none.

    Args:
        judgments: of any comparisons.
        reading: the p a judgment counts with, where it is not the ledger's own (`calibration.calibrated`).
    """
    usable: dict[tuple[str, str], dict[str, tuple[Judgment, float]]] = {}
    for judgment in judgments:
        if (p := reading(judgment)) is not None:
            usable.setdefault((judgment.comparison_id, judgment.principle), {})[judgment.order] = (judgment, p)
    found: dict[str, list[Opinion]] = {}
    for (comparison_id, principle), by_order in usable.items():
        if len(by_order) == 2:
            (ab, p_ab), (ba, p_ba) = by_order["ab"], by_order["ba"]
            mass = None if ab.mass is None or ba.mass is None else (ab.mass + ba.mass) / 2
            opinion = Opinion(
                principle,
                (p_ab + p_ba) / 2,
                (ab.id, ba.id),
                same_answer(p_ab, p_ba),
                gap=abs(p_ab - p_ba),
                mass=mass,
                reasoned=ab.mode == "cot",
                same_position=side(p_ab) * side(p_ba) < 0,
            )
            found.setdefault(comparison_id, []).append(opinion)
    return found


def clamped(opinion: Opinion, clamp: Clamp) -> Opinion:
    """The opinion with p no lower and no higher than the ends of `clamp`, where the judge reasoned first.

    A reasoning makes a judge far surer than it is right: Bai et al. 2022, section 4.1, train on 0.4 to 0.6.
    """
    if not opinion.reasoned or clamp is None:
        return opinion
    return replace(opinion, p_a=min(max(opinion.p_a, clamp[0]), clamp[1]))


def failed(judgments: Iterable[Judgment]) -> dict[str, set[str]]:
    """Per comparison id, the principles of the judgments that failed."""
    found: dict[str, set[str]] = {}
    for judgment in judgments:
        if judgment.outcome in _FAILED:
            found.setdefault(judgment.comparison_id, set()).add(judgment.principle)
    return found


def silent(judgments: Iterable[Judgment]) -> dict[str, set[Outcome]]:
    """Per comparison id, the outcomes of the judgments that give no number."""
    found: dict[str, set[Outcome]] = {}
    for judgment in judgments:
        if judgment.p_a is None:
            found.setdefault(judgment.comparison_id, set()).add(judgment.outcome)
    return found


def why_silent(outcomes: set[Outcome]) -> str:
    """Why there is no label, from the outcomes of a comparison's judgments without a number."""
    if outcomes == {"not_applicable"}:
        return "no principle it was judged under applies"
    if outcomes == {"tie"}:
        return "the checks it was judged by score both answers alike"
    if outcomes == {"tie", "not_applicable"}:
        return "the principles it was judged under do not apply or score both answers alike"
    return "no principle was judged in both orders"
