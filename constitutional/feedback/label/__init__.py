"""Soft labels: a pure function of the ledger, so that a new rule costs no model call.

A principle's opinion on a comparison is the mean of p over both orders, which cancels a constant position bias; an
opinion that lacks one order is left out, and so are ties of a check and principles that do not apply. Rules: `sampled`
takes one random principle per comparison (Bai et al. 2022, section 4.1), `mean` the average over principles,
`weighted` the average by the principles' weights, `tiers` the average over the highest tier that is decisive, `veto`
that of the principles that may veto an answer and do, else of all, `dominant` the most decisive principle (Sun et al.
2023, SALMON), `calibrated` the logistic of the opinions under weights fitted to labelled comparisons. A tier, or a
veto, that could not be read is not left open: nothing else decides in its place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from constitutional.errors import DataError
from constitutional.feedback.label.abstain import Limits, objection
from constitutional.feedback.label.opinions import (
    CLAMP,
    Clamp,
    Opinion,
    Reading,
    as_stored,
    clamped,
    failed,
    opinions,
    side,
    silent,
    why_silent,
)
from constitutional.feedback.label.rules import Heard, Rule, Terms, combined, deciding
from constitutional.principles import Principle
from constitutional.records import Comparison, Judgment, Preference

__all__ = ["CLAMP", "Clamp", "Limits", "Opinion", "Rule", "clamped", "label", "label_by_origin", "opinions"]


def label(
    comparisons: Sequence[Comparison],
    judgments: Iterable[Judgment],
    *,
    principles: Sequence[Principle],
    rule: Rule = "mean",
    margin: float = 0.1,
    seed: int = 0,
    veto: int | tuple[str, ...] = 1,
    weights: Mapping[str, float] | None = None,
    reading: Reading = as_stored,
    limits: Limits | None = None,
    clamp: Clamp = CLAMP,
) -> Iterator[Preference]:
    """One Preference per comparison; one without a usable opinion abstains and says so, it is never 0.5.

    The order of the judgments does not matter.

    Args:
        comparisons: what is to be labelled.
        judgments: of these comparisons, and maybe of others.
        principles: those whose opinions count.
        rule: how opinions become one label.
        margin: of the rules `tiers` and `veto`: how far from one half is decisive. In `tiers` the tier of lowest number
            whose mean opinion is that far decides alone; where none is, or one that could not be read in full is not,
            the label abstains.
        seed: of the draws of the rule `sampled`.
        veto: of the rule `veto`: the tier, or the ids of the principles, that decide alone where they are decisive.
            Where they are so against both answers, the label abstains.
        weights: of the rule `calibrated`: the fitted ones, by `id@version`.
        reading: the p a judgment counts with, where it is not the ledger's own.
        limits: beyond which a label abstains. It then names the judgments it would have been made from.
        clamp: ends of the opinions of a judge that reasons first (`clamped`); all others stay as they are.

    Raises:
        DataError: rule `calibrated` without weights.
    """
    if rule == "calibrated" and weights is None:
        raise DataError("the rule 'calibrated' needs weights fitted to labelled comparisons (fit_weights)")
    terms = Terms(principles, margin, seed, veto, weights)
    share = terms.share(rule)
    rank = {principle.ref: number for number, principle in enumerate(principles)}
    judgments = list(judgments)
    by_comparison, unsaid, unread = opinions(judgments, reading), silent(judgments), failed(judgments)
    for comparison in comparisons:
        given = [clamped(o, clamp) for o in by_comparison.get(comparison.id, []) if o.principle in rank]
        heard = Heard(
            comparison.id,
            tuple(sorted(given, key=lambda o: rank[o.principle])),
            unread.get(comparison.id, set()) - {o.principle for o in given},
            why_silent(unsaid.get(comparison.id, set())),
        )
        found, why = deciding(rule, heard, terms)
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
        p_a = combined(found, rule, share)
        same_side = sum(side(o.p_a) == side(p_a) for o in found)
        against = objection(p_a, found, heard.opinions, limits) if limits is not None else None
        yield Preference(
            comparison_id=comparison.id,
            p_a=None if against else p_a,
            rule=rule,
            judgment_ids=tuple(i for o in found for i in o.judgment_ids),
            principles=tuple(o.principle for o in found),
            agreement=None if against else same_side / len(found),
            abstained=against,
        )


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
