"""When a label is rather not given: the judge read the position, not the options, or the principles disagree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum

from constitutional.feedback.label.opinions import ROUNDING, Opinion, side


@dataclass(frozen=True)
class Limits:
    """What a label may rest on; None sets no limit.

    `order_gap` is the most by which p may move when the order is turned, on average over the opinions that decide;
    `min_mass` the least mass the options must have, likewise (checks have none); `disagreement` the largest share of
    all opinions heard that may prefer the other answer.
    """

    order_gap: float | None = None
    min_mass: float | None = None
    disagreement: float | None = None


def objection(p_a: float, deciding: Sequence[Opinion], heard: Sequence[Opinion], limits: Limits) -> str | None:
    """Why a label abstains, the same words wherever the same limit is passed; None where it stands.

    Args:
        p_a: the label.
        deciding: the opinions it was made from, at least one.
        heard: all opinions on the comparison.
        limits: as set.
    """
    gap = fsum(o.gap for o in deciding) / len(deciding)
    if limits.order_gap is not None and gap > limits.order_gap + ROUNDING:
        return f"p moves by more than {limits.order_gap} when the order is turned"
    masses = [o.mass for o in deciding if o.mass is not None]
    if limits.min_mass is not None and masses and fsum(masses) / len(masses) < limits.min_mass - ROUNDING:
        return f"the options have less than {limits.min_mass} of the judge's probability"
    against = sum(side(o.p_a) * side(p_a) < 0 for o in heard) / len(heard)
    if limits.disagreement is not None and against > limits.disagreement + ROUNDING:
        return f"more than {limits.disagreement} of the principles prefer the other answer"
    return None
