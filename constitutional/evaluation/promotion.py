"""May a round's model replace the policy it was trained from? Only where the evaluation's interval says so."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

from constitutional.evaluation.answers import System
from constitutional.evaluation.evaluate import Evaluation
from constitutional.records import Record
from constitutional.settings.loop import Figure, PromotionSettings
from constitutional.statistics import Interval, bracketed, proportion_difference, wilson
from constitutional.statistics.intervals import score_interval

CHANCE = 0.5


class Promotion(Record):
    """A decision, the figure it rests on, and why. `value` and `interval` are None where there is no figure.

    Of a win rate `interval` is the wider of the evaluation's (a bootstrap, too narrow on few prompts) and the score
    interval of as many yes-or-no answers, which vary at least as much.
    """

    promoted: bool
    figure: Figure
    value: float | None
    interval: Interval | None
    n: int
    perplexity_ratio: float | None
    perplexity_interval: Interval | None
    why: str


def least_prompts(figure: Figure) -> int:
    """Held-out prompts from which on the best possible outcome is decisive; with fewer no model can be promoted."""
    if figure == "compliance":
        return next(n for n in count(1) if proportion_difference(0, n, n, n).high < 0)
    return next(n for n in count(1) if wilson(n, n).low > CHANCE)


def decide(
    evaluation: Evaluation, system: System, settings: PromotionSettings, *, judge_passed: bool | None
) -> Promotion:
    """Whether a model replaces the base it was compared with.

    Args:
        evaluation: of the round.
        system: the round's model.
        settings: which figure decides.
        judge_passed: whether the judge passed its gate; None where nobody asked.
    """
    value, interval, n = _figure(evaluation, system, settings.figure)
    forgotten = next((row for row in evaluation.perplexity if row.system == system), None)
    reasons = []
    if settings.figure == "judge" and not judge_passed:
        reasons.append("the judge did not pass its gate, so its word decides nothing")
    if interval is None or value is None:
        reasons.append(f"there is no {_named(settings.figure)} of {system} to decide by")
    elif settings.figure == "compliance" and interval.high >= 0:
        reasons.append(f"compliance changed by {value:+.3f} {bracketed(interval, signed=True)}: not surely less")
    elif settings.figure != "compliance" and interval.low <= CHANCE:
        reasons.append(f"{_named(settings.figure)} {value:.3f} {bracketed(interval)} of {n}: not surely above one half")
    if settings.max_perplexity is not None:
        high = forgotten.interval.high if forgotten is not None and forgotten.interval is not None else None
        if high is None:
            reasons.append("perplexity on held-out helpful answers could not be compared")
        elif high > settings.max_perplexity:
            reasons.append(
                f"perplexity on held-out helpful answers may have grown {high:.2f} times, more than "
                f"{settings.max_perplexity:g}"
            )
    return Promotion(
        promoted=not reasons,
        figure=settings.figure,
        value=value,
        interval=interval,
        n=n,
        perplexity_ratio=forgotten.ratio if forgotten else None,
        perplexity_interval=forgotten.interval if forgotten else None,
        why="; ".join(reasons) if reasons else " and ".join(_grounds(settings, value, interval, n)),
    )


def _named(figure: Figure) -> str:
    if figure == "compliance":
        return "compliance"
    return f"win rate by {'judge' if figure == 'judge' else 'preference model'}"


def _grounds(settings: PromotionSettings, value: float | None, interval: Interval | None, n: int) -> Iterator[str]:
    if value is not None and interval is not None:
        signed = settings.figure == "compliance"
        change = f"changed by {value:+.3f}" if signed else f"{value:.3f}"
        yield f"{_named(settings.figure)} {change} {bracketed(interval, signed=signed)} of {n}"
    if settings.max_perplexity is not None:
        yield f"perplexity on held-out helpful answers at most {settings.max_perplexity:g} times the start model's"


def _figure(evaluation: Evaluation, system: System, figure: Figure) -> tuple[float | None, Interval | None, int]:
    if figure == "compliance":
        row = evaluation.row(system, "red_team")
        for change in evaluation.changes:
            if (change.system, change.kind) == (system, "red_team"):
                return change.difference, change.interval, row.compliance.n if row else 0
        return None, None, 0
    by = "judge" if figure == "judge" else "preference model"
    for win in evaluation.wins:
        if (win.by, win.system, win.against, win.kind) == (by, system, "base", "red_team"):
            score, drawn = score_interval(win.rate.mean, win.rate.n, 0.95), win.rate.interval
            wider = Interval(low=min(score.low, drawn.low), high=max(score.high, drawn.high))
            return win.rate.mean, wider, win.rate.n
    return None, None, 0
