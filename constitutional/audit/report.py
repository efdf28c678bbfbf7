"""The report of a run: one HTML file without script, and its figures as JSON beside it.

Equal runs give equal reports. Model text reaches the page only as an escaped value; the page's own policy forbids
scripts and anything from elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from constitutional.audit.audit_view import ShownAudit, audit_values, show_audit
from constitutional.audit.charts import LineChart, histogram_chart, line_chart
from constitutional.audit.current import open_view
from constitutional.audit.figures import PART, Curve, ReportFigures, report_figures
from constitutional.audit.pages import AUDIT_SECTIONS, drawn
from constitutional.audit.status import total_tokens
from constitutional.audit.transcripts import Heldout, Training, heldout_transcripts, training_transcripts
from constitutional.audit.wording import labels_why, summary
from constitutional.errors import LedgerError
from constitutional.evaluation.evaluate import KINDS
from constitutional.principles import Constitution
from constitutional.records import Prompt
from constitutional.runs import write_atomic
from constitutional.settings import Recipe

_TITLES = {
    ("sft", "loss"): "SL-CAI: loss",
    ("pm", "loss"): "Preference model: loss",
    ("rl", "reward"): "RL-CAI: reward",
    ("rl", "kl"): "RL-CAI: KL to SL-CAI",
    ("rl", "probe/reward"): "Probes: reward",
    ("rl", "probe/heldout_reward"): "Probes: held-out reward",
    ("rl", "probe/gap"): "Probes: what the held-out source does not confirm",
    ("rl", "probe/refusal"): "Probes: refusals of benign prompts",
    ("rl", "probe/boilerplate"): "Probes: the phrase that spread furthest",
    ("rl", "entropy"): "RL-CAI: entropy",
    ("rl", "completions/mean_length"): "RL-CAI: length of rollouts",
    ("rl", "completions/clipped_ratio"): "RL-CAI: rollouts cut at the limit",
    ("rl", "repetition"): "RL-CAI: repetition in a rollout",
    ("rl", "boilerplate"): "RL-CAI: the phrase that spread furthest",
}
_SECTIONS = (
    ("summary", "Summary"),
    ("recipe", "Recipe"),
    ("revise", "Revision"),
    ("gate", "Gate"),
    *AUDIT_SECTIONS,
    ("labels", "Labels"),
    ("training", "Training"),
    ("evaluation", "Evaluation"),
    ("heldout", "Held-out transcripts"),
    ("revisions", "Training transcripts"),
    ("cost", "Failures and cost"),
    ("trace", "Tracing"),
)


def write_report(run_folder: Path, recipe: Recipe, constitution: Constitution, prompts: Sequence[Prompt]) -> Path:
    """Writes report.html and report.json from what is finished in a run folder.

    Args:
        run_folder: the run; it need not be complete.
        recipe: as resolved.
        constitution: the one the run uses.
        prompts: all of the run's prompts.

    Returns:
        The path of report.html.

    Raises:
        RunError: no run folder, a damaged file in it, or the report cannot be written.
        LedgerError: the ledger cannot be read.
    """
    by_id = {prompt.id: prompt for prompt in prompts}
    with open_view(run_folder) as view:
        figures = report_figures(view, recipe, constitution, by_id)
        heldout, training = heldout_transcripts(view, by_id), training_transcripts(view, by_id)
    audited = _audited(run_folder, recipe.name)
    found = figures.model_dump(mode="json") | (audited.figures() if isinstance(audited, ShownAudit) else {})
    write_atomic(run_folder / "report.json", json.dumps(_with_shares(found), indent=1, allow_nan=False) + "\n")
    path = run_folder / "report.html"
    write_atomic(path, render_report(figures, recipe, constitution, heldout, training, audited))
    return path


def _audited(run_folder: Path, name: str) -> ShownAudit | str | None:
    """The audit under the recipe's name, which unlike the folder's is the same in equal runs; or why there is none."""
    try:
        found = show_audit([run_folder])
    except LedgerError as error:
        return str(error)
    if not found.audit.principles:
        return None
    runs = tuple(run.model_copy(update={"name": name}) for run in found.audit.runs)
    return replace(found, audit=found.audit.model_copy(update={"runs": runs}))


def render_report(
    figures: ReportFigures,
    recipe: Recipe,
    constitution: Constitution,
    heldout: Sequence[Heldout],
    training: Sequence[Training],
    audited: ShownAudit | str | None = None,
) -> str:
    """The page as text; `audited` is the audit, or why there is none."""
    rows = figures.evaluation.rows if figures.evaluation else ()
    values: dict[str, Any] = {
        "f": figures,
        "constitution": constitution,
        "titles": {p.ref: p.title for p in constitution.principles},
        "coded": {p.ref for p in constitution.principles if p.check},
        "recipe_yaml": yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True),
        "summary": summary(figures),
        "labels_why": labels_why(figures),
        "red_team": [row for row in rows if row.kind == "red_team"],
        "benign": [row for row in rows if row.kind == "benign"],
        "kinds": KINDS,
        "charts": [_chart(curve, figures) for curve in figures.curves],
        "label_chart": histogram_chart(figures.labels.histogram) if figures.labels else None,
        "heldout": heldout,
        "training": training,
        "failures": [(s.name, kind, n) for s in figures.steps for kind, n in s.failures.items()],
        "cost": _cost(figures),
        "commands": _commands(heldout, training),
        "audit": None,
        "audit_problem": audited if isinstance(audited, str) else "",
    }
    if isinstance(audited, ShownAudit):
        values |= audit_values(audited)
    return drawn("report.html.j2", values, _SECTIONS)


def _chart(curve: Curve, figures: ReportFigures) -> LineChart:
    """A curve; in those of RL a line stands wherever a rule of the watch fired on the figure."""
    title = _TITLES.get((curve.stage, curve.figure)) or f"Probes: {curve.figure.removeprefix(PART)}"
    watch = figures.rl.watch if figures.rl is not None and curve.stage == "rl" else None
    fired = [event.step for event in watch.events if event.figure == curve.figure] if watch is not None else []
    return line_chart(curve, title, marked=fired)


def _cost(figures: ReportFigures) -> dict[str, float]:
    tokens = total_tokens([step.tokens for step in figures.steps if step.tokens is not None])
    return {"seconds": sum(step.seconds or 0.0 for step in figures.steps), **tokens.model_dump()}


def _commands(heldout: Sequence[Heldout], training: Sequence[Training]) -> list[str]:
    """Commands that work on this run, with ids from this page."""
    lines = ["constitutional status RUN"]
    if heldout:
        lines.append(f"constitutional trace RUN {heldout[0].answers[-1].id}    # an evaluated answer")
    if training:
        lines.append(f"constitutional trace RUN {training[0].revision.id}    # a revision, and what it was used for")
        if (sampled := training[0].sampled) is not None:
            lines.append(f"constitutional trace RUN {sampled.id}    # a comparison, and its judgments")
        if (rollout := training[0].rollout) is not None:
            lines.append(f"constitutional trace RUN {rollout.id}    # a reward")
    return lines


def _with_shares(value: Any) -> Any:
    """Beside each count out of n, the share it is."""
    if isinstance(value, list):
        return [_with_shares(item) for item in value]
    if not isinstance(value, dict):
        return value
    found = {key: _with_shares(item) for key, item in value.items()}
    part = found.get("count", found.get("correct"))
    if "interval" in found and isinstance(part, int) and found.get("n"):
        found["share"] = part / found["n"]
    return found
