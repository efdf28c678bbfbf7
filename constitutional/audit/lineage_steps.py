"""Where a trained model, or what it said, comes from: steps, the steps they read, and the principles behind them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TypeGuard

from constitutional.audit.index import Index
from constitutional.audit.trace_node import (
    Fact,
    TraceNode,
    check,
    missing,
    model_facts,
    principle_node,
    template_facts,
)
from constitutional.evaluation.answers import System
from constitutional.feedback.gate import GateReport
from constitutional.feedback.label.calibration import CALIBRATIONS, Calibration, calibration_lines
from constitutional.feedback.label.weights import WEIGHTS, FittedWeights, weight_lines
from constitutional.few_shots import Kind
from constitutional.records import Comparison, Preference, Record
from constitutional.runs import StageResult
from constitutional.training.pm_folder import weights_identity
from constitutional.training.rows import PreferenceModelResult, PreferenceRow, RewardRow, RlResult, SftResult, SftRow

_REQUESTS = {
    "revise": ("critique_request", "revision_request"),
    "gate": ("comparison_request",),
    "judge": ("comparison_request",),
    "evaluate": ("comparison_request",),
}
_FOLLOWED = 3
TRAINED_BY: dict[System, str] = {"sl-cai": "sft", "rl-cai": "rl"}
"""The step that trains each system."""


def system_node(ix: Index, system: System) -> list[TraceNode]:
    """The step that trained an evaluated system; none for the base."""
    return [step_node(ix, TRAINED_BY[system])] if system in TRAINED_BY else []


def step_node(ix: Index, name: str, *, inputs: bool = True, seen: set[str] | None = None) -> TraceNode:
    """One step and, with `inputs`, the steps it read, each told once."""
    result = ix.view.step(name)
    if result is None:
        return missing("step", name, "not finished in this run")
    told = seen if seen is not None else set()
    if name in told:
        return TraceNode(kind="step", id=result.key, title=f"{name} (told above)")
    told.add(name)
    facts = [*_settings(ix, result), *_outcome(ix, name), ("folder", ix.view.folders[name])]
    facts += _software(result, told)
    children: list[TraceNode] = []
    for source, stamp in result.manifest.inputs.items():
        current = ix.view.step(source)
        same = current is not None and (current.key, current.manifest.built) == (stamp.key, stamp.built)
        facts += check(same, f"it read build {stamp.key} of '{source}', which is not the current one")
        children += [step_node(ix, source, seen=told)] if inputs else []
    children += _principles(ix, name, result)
    title = f"{name}: {', '.join(f'{n} {what}' for what, n in result.manifest.counts.items())}"
    return TraceNode(kind="step", id=result.key, title=title, facts=tuple(facts), children=tuple(children))


def judgments_behind(ix: Index, reward: RewardRow) -> tuple[list[str], list[Fact]]:
    """The judgments that taught the preference model which gave a reward.

    Returns:
        The ids of training rows on the reward's own prompt, the first few, to be followed down to their judgments; and
        how many judgments there are in all, by principle.
    """
    rows = [entry for entry in ix.entries.values() if isinstance(entry.record, PreferenceRow)]
    trained = [entry for entry in rows if any(place.startswith("pm/rows") for place in entry.places)]
    counts: Counter[str] = Counter()
    for entry in trained:
        label = ix.get(entry.record.preference_id) if isinstance(entry.record, PreferenceRow) else None
        if label is not None and isinstance(label.record, Preference):
            counts.update(dict.fromkeys(label.record.principles, 2))  # both orders
    if not trained:
        return [], []
    facts = [("judgments behind its preference model", f"{counts.total()} in {len(trained)} training rows")]
    facts += [("of them", f"{_counted(counts)} (`trace RUN --principle` lists them)")] if counts else []
    own = [e.id for e in trained if _prompt_of(ix, e.record) == reward.prompt_id]
    facts += [("training rows on this prompt", str(len(own)))]
    return own[:_FOLLOWED], facts


def _prompt_of(ix: Index, row: Record | StageResult) -> str | None:
    pair = ix.get(row.comparison_id) if isinstance(row, PreferenceRow) else None
    return pair.record.prompt_id if pair is not None and isinstance(pair.record, Comparison) else None


def _settings(ix: Index, result: StageResult) -> list[Fact]:
    settings, manifest = result.manifest.settings, result.manifest
    facts: list[Fact] = [("seed", str(manifest.seed))] if manifest.seed is not None else []
    watch = settings.get("watch")
    told = [settings, *([watch] if isinstance(watch, dict) else [])]
    for name, role in (("policy", "policy"), ("critic", "feedback"), ("judge", "judge")):
        identity = next((one[name] for one in told if name in one), None)
        facts += model_facts(ix, name, identity, role) if isinstance(identity, str) else []
    found = [str(t) for one in told for t in _templates(one)]
    return facts + template_facts(ix, list(dict.fromkeys(found)))


def _templates(settings: Mapping[str, object]) -> list[object]:
    """The digests a step's settings hold of its templates: of all it asks with, or of those an rl step grades with."""
    named = settings.get("templates")
    single = [settings[name] for name in ("template", "applies_template") if name in settings]
    return [*(named if isinstance(named, list) else []), *single]


def _software(result: StageResult, told: set[str]) -> list[Fact]:
    """The versions a step was made with, once for all steps made with the same."""
    packages = ", ".join(f"{name} {version}" for name, version in result.manifest.versions.items())
    text = packages + (f", git {result.manifest.git}" if result.manifest.git else "")
    if text in told:
        return []
    told.add(text)
    return [("made with", text)]


def _principles(ix: Index, name: str, result: StageResult) -> list[TraceNode]:
    """The principles a step asked under, as its settings record them: rows of a ref and the request texts it used."""
    if name == "rl":
        return _graded(ix, result)
    if name not in _REQUESTS:
        return []
    recorded = result.manifest.settings.get("principles")
    if not isinstance(recorded, list):
        return [missing("principle", "?", "not recorded in the step's settings")]
    kind: Kind = "revision" if name == "revise" else "comparison"
    return [_principle(ix, row, _REQUESTS[name], kind) for row in recorded]


def _graded(ix: Index, result: StageResult) -> list[TraceNode]:
    """The principles a judge graded rollouts by, or a watch's answers: no step has both."""
    settings = result.manifest.settings
    watch = settings.get("watch")
    if "graded" not in settings and isinstance(watch, dict):
        settings = watch
    rows, cases = settings.get("graded", []), settings.get("applies_when", [])
    if not _pairs(rows) or not _pairs(cases):
        return [missing("principle", "?", "not recorded in the step's settings as its ref and its request texts")]
    asked = {str(ref): text for ref, text in cases}
    requests = ("score_request", "applies_when")
    return [principle_node(ix, str(ref), None, requests, [text, asked.get(str(ref))]) for ref, text in rows]


def _pairs(rows: object) -> TypeGuard[list[list[object]]]:
    return isinstance(rows, list) and all(isinstance(row, list) and len(row) == 2 for row in rows)


def _principle(ix: Index, row: object, requests: Sequence[str], kind: Kind) -> TraceNode:
    """One row `[ref, text, ..., few-shots of its own?]`, checked against the constitutions stored in the run."""
    texts = 1 + len(requests)
    if not isinstance(row, list) or not texts <= len(row) <= texts + 1:
        return missing("principle", "?", "not recorded in the step's settings as its ref and its request texts")
    node, shots = principle_node(ix, str(row[0]), None, requests, row[1:texts]), row[texts:]
    named = [p for text in ix.view.texts for p in text.constitution.principles if p.ref == row[0]]
    facts = [("few-shots", "its own")] if shots else []
    facts += check(
        not named or any(p.shown(kind) == shots for p in named),
        "the step showed other few-shots than the constitutions stored in the run have",
    )
    return node.model_copy(update={"facts": (*node.facts, *facts)})


def _outcome(ix: Index, name: str) -> list[Fact]:
    """What a step came to, in a few figures."""
    view = ix.view
    if name == "sft" and (sft := view.figures("sft", "result.json", SftResult)):
        rows = Counter(row.principle or "helpful answers" for row in view.rows("sft", "rows.jsonl", SftRow))
        return [("trained on", _counted(rows)), ("loss", f"{sft.first_loss:.3f} to {sft.last_loss:.3f}")]
    if name == "pm" and (pm := view.figures("pm", "result.json", PreferenceModelResult)):
        accuracy = "none" if pm.heldout.accuracy is None else f"{pm.heldout.accuracy:.3f} of {pm.heldout.n}"
        return [("preference model", pm.model), ("trained on", f"{pm.rows} rows"), ("held-out accuracy", accuracy)]
    if name == "rl" and (rl := view.figures("rl", "result.json", RlResult)):
        trained = view.figures("pm", "result.json", PreferenceModelResult)
        by = rl.preference_model
        same = trained is None or by is None or trained.model == weights_identity(by)
        facts = [("preference model", by or "none"), ("steps", str(rl.steps))]
        return facts + check(same, "rewarded by another preference model than the run's")
    if name == "label":
        labels = view.rows("label", "data.jsonl", Preference)
        rows = Counter(ref for label in labels for ref in label.principles)
        rules = Counter(label.rule for label in labels)
        fitted = view.figures("label", WEIGHTS, FittedWeights)
        lines = calibration_lines(view.rows("label", CALIBRATIONS, Calibration)) + (
            weight_lines(fitted) if fitted else []
        )
        asked = ("labels by principle", _counted(rows) or "none: no judge was asked")
        return [("rule", _counted(rules)), asked, *(("fitted", line) for line in lines)]
    if name == "gate" and (gate := view.figures("gate", "gate.json", GateReport)):
        verdict = "passed" if gate.passed else f"failed: {'; '.join(gate.reasons)}"
        cases = [(f"{row.principle} applies", row.line) for row in gate.applies]
        return [("gate", verdict), ("labels used", gate.labels), *cases]
    return []


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{name} x {n}" for name, n in sorted(counts.items()))
