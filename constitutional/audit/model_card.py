"""Cards of the models a run saved: what each was made from, under which constitution, on whose word, and its limits.

Markdown with a YAML head, as model hubs read it. Everything that comes from data, a recipe or a model's name stands in
a code span or a JSON string, so that no such text can become markup.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from constitutional.audit.current import open_view
from constitutional.audit.evaluation_table import evaluation_lines
from constitutional.audit.figures import ReportFigures, report_figures
from constitutional.display import printable
from constitutional.principles import Constitution
from constitutional.records import Prompt
from constitutional.runs import write_atomic
from constitutional.settings import Recipe
from constitutional.statistics import bracketed, rate, with_interval
from constitutional.training.rows import NamedAgreement, PreferenceRow, RlResult

TITLES = {"sft": "SL-CAI policy", "pm": "preference model", "rl": "RL-CAI policy"}

_LIMITS = {
    "all": (
        "Measured only by what stands above: on the run's own held-out prompts, in its languages and its length.",
        "A constitution steers training; it does not guarantee that an answer keeps to it.",
        "It inherits the starting model's knowledge, gaps, biases and licence, and the licences of the prompts.",
    ),
    "pm": (
        "A score is relative: only differences between answers to one prompt mean anything (log-odds of preference).",
        "Optimised against long enough, it will be gamed; watch the KL and held-out judgments.",
    ),
    "provenance": (
        "Its labels are not a judge's: revisions were taken to be better than what they revise because the judge "
        "failed the gate, or by recipe.",
    ),
}


def write_cards(
    run_folder: Path, recipe: Recipe, constitution: Constitution, prompts: Sequence[Prompt], models: Mapping[str, str]
) -> list[Path]:
    """Writes `models/NAME.md` for each model the run has finished.

    Args:
        run_folder: the run; it need not be complete.
        recipe: as resolved.
        constitution: the one the run uses.
        prompts: all of the run's prompts.
        models: the name of the model folder each training step saves.

    Raises:
        RunError: a damaged file in the run folder, or a card cannot be written.
    """
    with open_view(run_folder) as view:
        made = [step for step in models if view.step(step) is not None]
        if not made:
            return []
        figures = report_figures(view, recipe, constitution, {prompt.id: prompt for prompt in prompts})
        compared = [step for step in made if step != "sft"]
        sources = {
            step: dict(Counter(row.origin for row in view.rows(step, "rows.jsonl", PreferenceRow))) for step in compared
        }
    paths = []
    for step in made:
        paths.append(run_folder / "models" / f"{models[step]}.md")
        write_atomic(paths[-1], model_card(step, models[step], figures, recipe, sources.get(step, {})))
    return paths


def model_card(step: str, name: str, figures: ReportFigures, recipe: Recipe, sources: Mapping[str, int]) -> str:
    """The card of the model that a training step saved, as text; `sources` counts its comparisons by who labelled."""
    head = yaml.safe_dump({"library_name": "transformers", "tags": ["constitutional-ai", step]}, sort_keys=False)
    parts = [
        f"---\n{head}---\n\n# {name}: {TITLES[step]} of run {_code(recipe.name)}",
        _list("Made from", _origin(figures, recipe)),
        _list("Judge and gate", _gate(figures)) if step != "sft" else "",
        _list("Data", _data(step, figures, sources)),
        _list("Evaluation", _evaluation(step, figures)),
        _indented("\n".join(evaluation_lines(figures.evaluation))) if figures.evaluation and step != "pm" else "",
        _list("Limits", _limits(step, figures)),
        "## Recipe\n\n" + _indented(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _origin(figures: ReportFigures, recipe: Recipe) -> list[str]:
    models = figures.lock.get("models")
    identities = models if isinstance(models, dict) else {}
    lines = [
        f"constitution {_code(figures.constitution)}, digest {_code(figures.constitution_digest)}",
        f"starting policy {_code(recipe.policy)}, identity {_code(identities.get('policy', 'not recorded'))}",
        f"feedback model {_code(recipe.feedback)}, identity {_code(identities.get('feedback', 'not recorded'))}",
        f"seed {figures.seed}; code {_code(figures.lock.get('git') or 'not in a git repository')}",
    ]
    versions = figures.lock.get("versions")
    if isinstance(versions, dict):
        lines.append("versions: " + ", ".join(_code(f"{k} {v}") for k, v in sorted(versions.items())))
    return lines


def _gate(figures: ReportFigures) -> list[str]:
    gate = figures.gate
    if gate is None:
        return ["no judge was asked: there was no gate"]
    said = "passed" if gate.passed else "failed: " + "; ".join(_code(reason) for reason in gate.reasons)
    rows = [f"{_code(row.name)}: {with_interval(rate(row.correct, row.n))} of {row.n} right" for row in gate.sources]
    return [f"judge {_code(gate.judge)}", f"gate {said}", *rows, f"labels used: {gate.labels}"]


def _data(step: str, figures: ReportFigures, sources: Mapping[str, int]) -> list[str]:
    lines = [
        f"{count.n} {count.kind.replace('_', '-')} prompts ({count.split})" for count in figures.prompts if count.n
    ]
    if step == "sft" and figures.sft:
        lines.append(f"{figures.sft.rows} supervised rows, {figures.sft.steps} optimiser steps")
    if step == "pm" and figures.preference_model:
        pm = figures.preference_model
        lines.append(f"{pm.rows} comparisons, {pm.steps} optimiser steps, {max(1, len(pm.members))} model(s)")
    if step == "rl" and figures.rl:
        lines += _of_rl(figures.rl)
    if sources:
        lines.append("comparisons by source: " + ", ".join(f"{n} {_code(name)}" for name, n in sorted(sources.items())))
    failed = {kind: n for s in figures.steps if s.name == step for kind, n in s.failures.items()}
    lines += [f"left out: {n} {_code(kind)}" for kind, n in sorted(failed.items())]
    return lines


def _of_rl(rl: RlResult) -> list[str]:
    """What RL was given: rollouts, labelled comparisons (`dpo`), or the best of its rollouts (`best_of_n`)."""
    if not rl.completions:
        return [f"{rl.rows} comparisons of answers to {rl.prompts} prompts, {rl.steps} optimiser steps"]
    best = f"the best {rl.rows} of them trained on, " if rl.rows else ""
    return [
        f"{rl.prompts} prompts, {rl.completions} rollouts ({rl.empty_completions} empty), {best}{rl.steps} steps",
    ]


def _evaluation(step: str, figures: ReportFigures) -> list[str]:
    if step == "pm" and figures.preference_model:
        pm = figures.preference_model
        whole = NamedAgreement(name="held-out labels", agreement=pm.heldout)
        first = [NamedAgreement(name="first head, before training", agreement=pm.probe)] if pm.probe else []
        return [_agreement(part) for part in (whole, *first, *pm.by_source, *pm.by_principle)]
    lines = []
    if step == "rl" and figures.rl:
        rl = figures.rl
        scores = [f"{x:.3f}" if x is not None else "none" for x in (rl.first_reward, rl.last_reward, rl.last_kl)]
        if rl.completions and rl.rows:
            lines.append(f"reward {scores[0]}, the mean over all rollouts; they were drawn before training")
        elif rl.completions:
            lines.append(
                f"reward {scores[0]} at the first step, {scores[1]} at the last; KL {scores[2]} nats per token"
            )
        if rl.watch is not None and rl.watch.end is not None:
            lines.append(f"RL {rl.watch.end}")
    return lines if figures.evaluation else [*lines, "not evaluated on held-out prompts"]


def _agreement(part: NamedAgreement) -> str:
    found = part.agreement
    calibration = "none" if found.calibration_error is None else f"{found.calibration_error:.3f}"
    return (
        f"{_code(part.name)}: accuracy {with_interval(rate(found.correct, found.n))} of {found.n}, calibration error "
        f"{calibration}"
        if found.n
        else f"{_code(part.name)}: nothing to measure accuracy on, interval {bracketed(found.interval)}"
    )


def _limits(step: str, figures: ReportFigures) -> list[str]:
    lines = [*_LIMITS["all"], *(_LIMITS["pm"] if step == "pm" else ())]
    by_gate = figures.gate is not None and figures.gate.labels == "provenance"
    if step != "sft" and (by_gate or (figures.gate is None and figures.labels is not None)):
        lines += _LIMITS["provenance"]
    return lines


def _list(title: str, lines: Sequence[str]) -> str:
    return f"## {title}\n\n" + "\n".join(f"- {line}" for line in lines) if lines else ""


def _code(value: object) -> str:
    """A value as a code span that no backtick in it can end."""
    text = printable(" ".join((value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)).split()))
    fence = "`" * (max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    return f"{fence} {text} {fence}" if len(fence) > 1 or not text else f"{fence}{text}{fence}"


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
