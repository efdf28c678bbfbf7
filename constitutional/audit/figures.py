"""All the figures of a report in one record: what report.html shows and report.json holds."""

from __future__ import annotations

from math import isfinite

from pydantic import JsonValue

from constitutional.audit.current import RunView
from constitutional.audit.status import StepStatus, step_statuses
from constitutional.audit.tables import (
    LabelFigures,
    PrincipleRow,
    RevisionFigures,
    label_figures,
    principle_rows,
    revision_figures,
)
from constitutional.evaluation.evaluate import KINDS, Evaluation
from constitutional.feedback.gate import GateReport
from constitutional.ledger import GENESIS
from constitutional.principles import Constitution
from constitutional.records import Judgment, Preference, Prompt, PromptKind, Record, Revision, Split
from constitutional.settings import Recipe
from constitutional.training.rows import PreferenceModelResult, RlResult, SftResult

CURVES: tuple[tuple[str, str, str], ...] = (
    ("sft", "loss", "nats per completion token"),
    ("pm", "loss", "nats per comparison"),
    ("rl", "reward", "preference-model score"),
    ("rl", "kl", "nats per token"),
)
"""Step, figure and unit of each training curve."""

WATCHED: tuple[tuple[str, str], ...] = (
    ("probe/reward", "score of the reward"),
    ("probe/heldout_reward", "score of the held-out source"),
    ("probe/gap", "gain in reward less gain in held-out reward"),
    ("probe/refusal", "share of the canaries"),
    ("probe/boilerplate", "share of the answers, beyond the start's"),
    ("entropy", "nats per token"),
    ("completions/mean_length", "tokens"),
    ("completions/clipped_ratio", "share of the rollouts"),
    ("repetition", "share of the 4-grams"),
    ("boilerplate", "share of the rollouts, beyond the start's"),
)
"""Figure and unit of the further curves of a watched RL run; those of single parts of its reward come behind."""


PART = "probe/rewards/"
"""What the figure of a part of the reward is called before the part's name."""


class Curve(Record):
    """One logged figure over the steps of a training."""

    stage: str
    figure: str
    unit: str
    steps: tuple[int, ...]
    values: tuple[float, ...]


class LedgerFigures(Record):
    """The ledger as the report found it. `problems` is empty when its chain is whole and holds every step's head."""

    judgments: int
    head: str
    problems: tuple[str, ...]


class PromptCount(Record):
    """How many prompts of one kind and split the run had."""

    kind: PromptKind
    split: Split
    n: int


class ReportFigures(Record):
    """What a report says in numbers. A part whose step is not finished is None or empty."""

    run: str
    seed: int
    constitution: str
    constitution_digest: str
    lock: dict[str, JsonValue]
    prompts: tuple[PromptCount, ...]
    steps: tuple[StepStatus, ...]
    revision: RevisionFigures | None
    gate: GateReport | None
    judging: tuple[PrincipleRow, ...]
    labels: LabelFigures | None
    curves: tuple[Curve, ...]
    sft: SftResult | None
    preference_model: PreferenceModelResult | None
    rl: RlResult | None
    evaluation: Evaluation | None
    evaluation_judging: tuple[PrincipleRow, ...]
    ledger: LedgerFigures | None

    def unread_verdicts(self, step: str) -> int:
        """How often a step's judge could not be read on whether a principle applies."""
        failures = next((s.failures for s in self.steps if s.name == step), {})
        return sum(n for kind, n in failures.items() if kind.startswith("applies_"))


def report_figures(
    view: RunView, recipe: Recipe, constitution: Constitution, prompts: dict[str, Prompt]
) -> ReportFigures:
    """Counts everything from the records of the run's finished steps.

    Raises:
        RunError: a damaged file in the run folder.
        LedgerError: the ledger cannot be read.
    """
    rl = view.figures("rl", "result.json", RlResult)
    wanted = CURVES if rl is None or rl.watch is None else (*CURVES, *_watched(view))
    return ReportFigures(
        run=recipe.name,
        seed=recipe.seed,
        constitution=constitution.ref,
        constitution_digest=constitution.digest,
        lock=view.lock,
        prompts=_prompt_counts(prompts),
        steps=step_statuses(view),
        revision=revision_figures(
            view.rows("revise", "data.jsonl", Revision),
            constitution,
            {verdict.prompt_id for verdict in view.verdicts("revise") if verdict.applies is None},
        ),
        gate=view.figures("gate", "gate.json", GateReport),
        judging=principle_rows(view.rows("judge", "data.jsonl", Judgment), constitution),
        labels=label_figures(view.rows("label", "data.jsonl", Preference)),
        curves=tuple(c for c in (curve(view, *which) for which in wanted) if c.values),
        sft=view.figures("sft", "result.json", SftResult),
        preference_model=view.figures("pm", "result.json", PreferenceModelResult),
        rl=rl,
        evaluation=view.figures("evaluate", "evaluation.json", Evaluation),
        evaluation_judging=principle_rows(view.rows("evaluate", "data.jsonl", Judgment), constitution),
        ledger=_ledger(view),
    )


def _watched(view: RunView) -> list[tuple[str, str, str]]:
    logged = {name for row in view.metrics("rl") for name in row}
    parts = sorted(name for name in logged if name.startswith(PART))
    return [("rl", figure, unit) for figure, unit in (*WATCHED, *((part, "score") for part in parts))]


def curve(view: RunView, stage: str, figure: str, unit: str = "") -> Curve:
    """One figure as the trainer logged it; entries without it, or where it was no finite number, are left out."""
    points = [
        (int(row["step"]), float(row[figure]))
        for row in view.metrics(stage)
        if isinstance(row.get("step"), int) and isinstance(row.get(figure), int | float) and isfinite(row[figure])
    ]
    steps, values = tuple(step for step, _ in points), tuple(value for _, value in points)
    return Curve(stage=stage, figure=figure, unit=unit, steps=steps, values=values)


def _prompt_counts(prompts: dict[str, Prompt]) -> tuple[PromptCount, ...]:
    splits: tuple[Split, ...] = ("train", "heldout")
    counts = [
        PromptCount(kind=kind, split=split, n=sum(p.kind == kind and p.split == split for p in prompts.values()))
        for kind in KINDS
        for split in splits
    ]
    return tuple(count for count in counts if count.n)


def _ledger(view: RunView) -> LedgerFigures | None:
    if view.ledger is None:
        return None
    results = [result for name in view.folders if (result := view.step(name)) is not None]
    heads = [result.manifest.ledger_head for result in results]
    return LedgerFigures(
        judgments=view.ledger.count(),
        head=view.ledger.head,
        problems=tuple(view.ledger.verify(head for head in heads if head and head != GENESIS)),
    )
