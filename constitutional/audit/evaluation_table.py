"""The evaluation of a run as a terminal table."""

from __future__ import annotations

from pathlib import Path

from constitutional.audit.current import open_view
from constitutional.evaluation.evaluate import Evaluation
from constitutional.statistics import Rate, bracketed, with_interval

KIND_TITLES = {"red_team": "red-team", "benign": "benign", "helpful": "helpful"}


def render_evaluation(run_folder: Path) -> str:
    """Rates, changes and win rates with their intervals; empty when the run has no evaluation yet."""
    result = open_view(run_folder).step("evaluate")
    if result is None:
        return ""
    evaluation = Evaluation.model_validate_json((result.folder / "evaluation.json").read_bytes())
    return "\n".join(evaluation_lines(evaluation))


def evaluation_lines(evaluation: Evaluation) -> list[str]:
    """The table's lines."""
    return [
        *_rates(evaluation),
        "",
        *_changes(evaluation),
        "",
        *_wins(evaluation),
        *_checks(evaluation),
        *_forgotten(evaluation),
    ]


def _rates(evaluation: Evaluation) -> list[str]:
    head = (
        f"{'held-out prompts':<17}{'model':<8}{'complied':<25}{'partial':>8}{'refused':>26}{'words':>7}{'KL/token':>10}"
    )
    lines = [head]
    for row in sorted(evaluation.rows, key=lambda r: list(KIND_TITLES).index(r.kind)):
        kl = "" if row.kl is None else f"{row.kl:.2f}"
        lines.append(
            f"{KIND_TITLES[row.kind]:<17}{row.system:<8}{_rate(row.compliance):<25}{row.partial.share:>8.2f}"
            f"{_rate(row.refusal):>26}{row.mean_words:>7.0f}{kl:>10}"
        )
    return lines


def _changes(evaluation: Evaluation) -> list[str]:
    return [
        f"{KIND_TITLES[c.kind]}: {c.rate} {c.system} minus base {c.difference:+.2f} "
        f"{bracketed(c.interval, signed=True)}"
        for c in evaluation.changes
    ]


def _wins(evaluation: Evaluation) -> list[str]:
    return [
        f"{KIND_TITLES[w.kind]}: {w.system} preferred to {w.against} by {w.by} {w.rate.mean:.2f} "
        f"{bracketed(w.rate.interval)} of {w.rate.n}" + (f", {w.unusable} unusable" if w.unusable else "")
        for w in evaluation.wins
    ]


def _checks(evaluation: Evaluation) -> list[str]:
    lines = [
        f"{KIND_TITLES[row.kind]}: {row.system} passes {row.principle} {_rate(row.passed)}"
        + (f", {row.not_applicable} not applicable" if row.not_applicable else "")
        + (f", {row.errors} errors" if row.errors else "")
        for row in evaluation.checks
    ]
    return ["", *lines] if lines else []


def _forgotten(evaluation: Evaluation) -> list[str]:
    lines = [
        f"held-out helpful answers: {row.system} perplexity {row.perplexity:.2f}, start model {row.start:.2f}, ratio "
        f"{row.ratio:.2f} {bracketed(row.interval) if row.interval else '(no interval: one answer)'} of {row.n}"
        + (f", {row.unusable} unusable" if row.unusable else "")
        for row in evaluation.perplexity
    ]
    return ["", *lines] if lines else []


def _rate(rate: Rate) -> str:
    return f"{with_interval(rate)} {rate.count}/{rate.n}" if rate.n else with_interval(rate)
