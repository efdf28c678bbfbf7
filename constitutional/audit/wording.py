"""How a report puts figures into text: formats of numbers, and the sentences of its summary."""

from __future__ import annotations

from collections.abc import Callable

from markupsafe import Markup

from constitutional.audit.figures import ReportFigures
from constitutional.display import printable
from constitutional.errors import shortened
from constitutional.statistics import Interval

NONE = "—"
EXCERPT, LONG = 90, 1600
"""Characters of a text in a link, and in full."""
SYSTEM_NAMES = {"base": "Base", "sl-cai": "SL-CAI", "rl-cai": "RL-CAI"}


def clean(value: object) -> object:
    """Text without control characters and halves of surrogate pairs, which neither HTML nor UTF-8 can hold."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return printable(value).encode("utf-8", "replace").decode("utf-8")
    return value


def pct(share: float | None) -> str:
    """A share in per cent, to one decimal."""
    return NONE if share is None else f"{100 * share:.1f}\u202f%"


def interval(value: Interval) -> str:
    """An interval of a share, in per cent."""
    return f"{100 * value.low:.1f}–{100 * value.high:.1f}\u202f%"


def points(difference: float) -> str:
    """A difference of shares in percentage points, with its sign."""
    return f"{100 * difference:+.1f}".replace("-", "−")


def fixed(value: float | None, digits: int) -> str:
    """A number to so many decimals, what rounds to zero without a sign."""
    return NONE if value is None else f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def thousands(value: int) -> str:
    """A whole number in groups of three."""
    return f"{value:,}".replace(",", "\u202f")


def words(name: str) -> str:
    """A name of ours as a reader writes it."""
    return "red-team" if name == "red_team" else name.replace("_", " ")


def small(p: float) -> str:
    """A p value as it is read: to three decimals, the smallest as a bound."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def excerpt(text: str) -> str:
    """The first words of a text, on one line."""
    return shortened(" ".join(text.split()), EXCERPT, "…")


def long(text: str) -> str:
    """A text, of a very long one its beginning and how much was left out."""
    return text if len(text) <= LONG else f"{text[:LONG]}… ({thousands(len(text) - LONG)} more characters)"


def system_name(system: str) -> str:
    """A compared model as a reader writes it."""
    return SYSTEM_NAMES.get(system, system)


FILTERS: dict[str, Callable[..., str]] = {
    "pct": pct,
    "ci": interval,
    "points": points,
    "fixed": fixed,
    "thousands": thousands,
    "words": words,
    "system": system_name,
    "small": small,
    "excerpt": excerpt,
    "long": long,
}


def summary(f: ReportFigures) -> list[str]:
    """What the run came to, in a sentence or two."""
    if f.evaluation is None:
        done = [step.name for step in f.steps if step.state == "done"]
        return [f"This run has no evaluation yet; finished steps: {', '.join(done) or 'none'}."]
    rows = [row for row in f.evaluation.rows if row.kind == "red_team"]
    if not rows:
        return ["There were no held-out red-team prompts to compare the models on."]
    way = " → ".join(f"{system_name(r.system)} {pct(r.compliance.share)} (n = {r.compliance.n})" for r in rows)
    sentence = f"Compliance with held-out red-team prompts: {way}"
    base, last = rows[0], rows[-1]
    if base.system == "base" and last is not base and base.compliance.count:
        relative = last.compliance.share / base.compliance.share - 1
        sentence += f", a relative change of {points(relative)}\u202f%"
    wins = [
        f"{system_name(w.system)} over {system_name(w.against)} {pct(w.rate.mean)} by {w.by} "
        f"({interval(w.rate.interval)}, n = {w.rate.n})"
        for w in f.evaluation.wins
        if w.kind == "red_team" and w.against == "base"
    ]
    return [f"{sentence}."] + ([f"Win rates on the same prompts: {'; '.join(wins)}."] if wins else [])


def labels_why(f: ReportFigures) -> str:
    """Which labels the preference model learned from, and why these."""
    if f.gate is None and f.labels is not None:
        return "Labels by provenance are used, as the recipe says: no judge was asked."
    if f.gate is None:
        return "The gate has not run, so no labels are in use yet."
    reasons = "; ".join(f.gate.reasons)
    if f.gate.labels == "judge":
        return "The judge's own labels are used: it passed its gate."
    if f.gate.labels == "provenance":
        return (
            f"Labels by provenance are used (the revision is preferred to the answer it revises), because the judge "
            f"did not pass its gate and the recipe names this fallback. Reasons: {reasons}."
        )
    return f"No labels are used: the judge did not pass its gate and the recipe names no fallback. Reasons: {reasons}."
