"""What a principle decided: every judgment, label, training row, reward and revision of a run that goes back to it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from constitutional.audit.agreement import label_weights
from constitutional.audit.current import RunView, open_view
from constitutional.display import printable
from constitutional.errors import RunError, nearest, one_line
from constitutional.feedback.label.rules import shares
from constitutional.records import UNREVISED, Record, short_digest
from constitutional.runs.logs import file_digest
from constitutional.training.pm_folder import weights_identity
from constitutional.training.rows import PreferenceModelResult

_JUDGING = ("gate", "judge", "evaluate")
_SHOWN = 12


class StepJudgments(Record):
    """The judgments one step made under it."""

    step: str
    outcomes: dict[str, int]
    ids: tuple[str, ...]


class DecidedLabel(Record):
    """A label it entered, with the share it has in it (1: it decided alone)."""

    id: str
    comparison_id: str
    p_a: float | None
    share: float


class Rows(Record):
    """Training or reward rows, by the digest a trace finds them with."""

    file: str
    ids: tuple[str, ...]


class PrincipleTrace(Record):
    """What goes back to a principle in the run's current steps; `ledger` counts all that was ever judged under it.

    Rewards are here when a part of them was given under it, or by a preference model that was trained on a row here.
    """

    principle: str
    title: str
    ledger: dict[str, int]
    wordings: dict[str, int]
    """The same by the digest of its text: more than one where that was changed under one name."""
    judgments: tuple[StepJudgments, ...]
    labels: tuple[DecidedLabel, ...]
    rounds: int
    """Rounds of critique and revision under it; `revisions` are the records in which one was written."""
    revisions: tuple[str, ...]
    training_rows: tuple[Rows, ...]
    preference_model: str | None
    rewards: Rows | None


def trace_principle(path: Path, ref: str) -> PrincipleTrace:
    """Everything in a run that a principle decided.

    Args:
        path: the run folder; nothing in it is locked or changed.
        ref: `id@version`.

    Raises:
        RunError: no run folder, a damaged file, or a principle the run does not know.
        LedgerError: the ledger cannot be read.
    """
    with open_view(path) as view:
        titles = {p.ref: p.title for text in reversed(view.texts) for p in text.constitution.principles}
        judged = view.ledger.principles() if view.ledger is not None else []
        if ref not in titles and ref not in judged:
            known = {*titles, *judged}
            raise RunError(f"{path}: no principle '{one_line(ref[:80])}' in this run{nearest(ref, known)}")
        rounds, revisions = _revisions(view, ref)
        trained = [_rows(view, "sft", "rows.jsonl", ref), _rows(view, "pm", "rows.jsonl", ref)]
        model = view.figures("pm", "result.json", PreferenceModelResult) if trained[1].ids else None
        return PrincipleTrace(
            principle=ref,
            title=titles.get(ref, ""),
            ledger=view.ledger.outcomes(ref) if view.ledger is not None else {},
            wordings=view.ledger.wordings(ref) if view.ledger is not None else {},
            judgments=tuple(_judgments(view, step, ref) for step in _JUDGING if view.step(step) is not None),
            labels=tuple(_labels(view, ref)),
            rounds=rounds,
            revisions=revisions,
            training_rows=(*trained, _rows(view, "pm", "heldout.jsonl", ref)),
            preference_model=model.model if model else None,
            rewards=_rewards(view, ref, model.model if model else None),
        )


def render_principle(found: PrincipleTrace) -> str:
    """The trace as text, one line a fact, long lists of ids cut short; safe to print."""
    lines = [f"principle {found.principle}  {found.title}", f"  ledger: {_counts(found.ledger)}"]
    if len(found.wordings) > 1:
        texts = ", ".join(f"{count} under {digest}" for digest, count in found.wordings.items())
        lines.append(f"    its text was changed under one name: {texts}")
    for step in found.judgments:
        lines.append(f"  judgments of step {step.step}: {_counts(step.outcomes)}{_some(step.ids)}")
    alone = sum(label.share == 1 for label in found.labels)
    mean = sum(label.share for label in found.labels) / len(found.labels) if found.labels else 0.0
    labels = [f"{label.id} ({label.share:.2f})" for label in found.labels]
    lines.append(
        f"  labels: {len(labels)}"
        + (f", share {mean:.3f} on average, {alone} decided alone{_some(labels)}" if labels else "")
    )
    lines.append(f"  revisions: {len(found.revisions)} in {found.rounds} rounds under it{_some(found.revisions)}")
    lines += [f"  training rows in {rows.file}: {len(rows.ids)}{_some(rows.ids)}" for rows in found.training_rows]
    if found.rewards is not None:
        rows = found.rewards
        by = f"of preference model {found.preference_model}" if found.preference_model else "under it"
        lines.append(f"  rewards {by}: {len(rows.ids)}{_some(rows.ids)}")
    else:
        lines.append("  rewards: none leads back to it")
    return "\n".join(printable(" ".join(line.split("\n"))) for line in lines)


def _raw(view: RunView, step: str, file: str, needle: str) -> Iterator[dict[str, Any]]:
    """The rows of a step's file that hold a text, as plain JSON: records are validated by whoever reads them all.

    Raises:
        RunError: a damaged line among them, or a file that is not the one the step's manifest names.
    """
    result = view.step(step)
    if result is None or file not in result.manifest.outputs:
        return
    path, wanted = result.folder / file, needle.encode()
    if file_digest(path) != result.manifest.outputs[file]:
        raise RunError(f"{path}: not the file its manifest names (sha256 differs); delete {result.folder} to redo it")
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if wanted in line:
                try:
                    yield json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise RunError(f"{path}:{number}: damaged line: {error}") from error


def _quoted(ref: str) -> str:
    return json.dumps(ref, ensure_ascii=False)


def _judgments(view: RunView, step: str, ref: str) -> StepJudgments:
    rows = [r for r in _raw(view, step, "data.jsonl", f'"principle":{_quoted(ref)}') if r.get("principle") == ref]
    outcomes = Counter(str(row["outcome"]) for row in rows)
    return StepJudgments(step=step, outcomes=dict(sorted(outcomes.items())), ids=tuple(row["id"] for row in rows))


def _labels(view: RunView, ref: str) -> Iterator[DecidedLabel]:
    weights: dict[str, dict[str, float] | None] = {}
    for row in _raw(view, "label", "data.jsonl", _quoted(ref)):
        if ref in row["principles"]:
            rule = row["rule"]
            if rule not in weights:
                weights[rule] = label_weights(view, rule)
            share = shares(row["principles"], weights[rule])[ref]
            yield DecidedLabel(id=row["id"], comparison_id=row["comparison_id"], p_a=row["p_a"], share=share)


def _revisions(view: RunView, ref: str) -> tuple[int, tuple[str, ...]]:
    rounds, written = 0, []
    for row in _raw(view, "revise", "data.jsonl", f'"principle":{_quoted(ref)}'):
        under = [step for step in row["rounds"] if step["principle"] == ref]
        rounds += len(under)
        if any(UNREVISED.isdisjoint(step["flags"]) for step in under):
            written.append(row["id"])
    return rounds, tuple(written)


def _rows(view: RunView, step: str, file: str, ref: str) -> Rows:
    rows = _raw(view, step, file, _quoted(ref))
    ids = [short_digest(row) for row in rows if ref == row.get("principle") or ref in row.get("principles", ())]
    return Rows(file=f"{step}/{file}", ids=tuple(ids))


def _rewards(view: RunView, ref: str, model: str | None) -> Rows | None:
    """The rewards a part of which was given under the principle, and those of the preference model."""
    ids = []
    if model is not None:  # whatever principles it scored under: its identity then goes on
        rows = _raw(view, "rl", "rewards.jsonl", model)
        ids = [short_digest(row) for row in rows if weights_identity(row.get("preference_model") or "") == model]
    named = _raw(view, "rl", "rewards.jsonl", _quoted(ref))
    own = [short_digest(row) for row in named if any(_spoke(part, ref) for part in row.get("parts", ()))]
    told = set(ids)
    ids += [row_id for row_id in own if row_id not in told]
    return Rows(file="rl/rewards.jsonl", ids=tuple(ids)) if ids or model is not None else None


def _spoke(part: dict[str, Any], ref: str) -> bool:
    """Whether a part of a reward is a principle's, and not one that has nothing to say of its rollout."""
    return part["name"] == ref and (part["score"] is not None or part.get("error") is not None)


def _counts(outcomes: dict[str, int]) -> str:
    listed = ", ".join(f"{name} {n}" for name, n in outcomes.items())
    return f"{sum(outcomes.values())} judgments" + (f" ({listed})" if listed else "")


def _some(ids: tuple[str, ...] | list[str]) -> str:
    more = f" and {len(ids) - _SHOWN} more (--json lists all)" if len(ids) > _SHOWN else ""
    return f": {', '.join(ids[:_SHOWN])}{more}" if ids else ""
