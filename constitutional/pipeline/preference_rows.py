"""What the preference model is trained and measured on: the run's labels, people's preferences, opinions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from constitutional.config import resolve_path
from constitutional.errors import TrainingError
from constitutional.feedback.label import clamped, opinions
from constitutional.feedback.label.calibration import CALIBRATIONS, Calibration, calibrated
from constitutional.pipeline.context import Done
from constitutional.pipeline.inputs import Inputs
from constitutional.pipeline.readable import Reader, unread
from constitutional.prompts import load_pairs
from constitutional.records import Comparison, Failure, Judgment, Preference, short_digest
from constitutional.settings import RowSettings
from constitutional.training.pm_folder import OVERALL, Condition
from constitutional.training.rows import PreferenceRow

_NO_ANSWER = frozenset({"empty_chosen", "empty_rejected", "same_answers", "prompt_mismatch"})
"""Flags of human pairs that have no right answer to find."""


@dataclass(frozen=True)
class HumanComparison:
    """A pair people compared (`a` is preferred), the data set it is of, and why it cannot be used."""

    dataset: str
    weight: float
    comparison: Comparison
    flag: str | None


@dataclass
class PreferenceRows:
    """Rows by what they are for, and the records of this step that they cite."""

    train: list[PreferenceRow] = field(default_factory=list)
    heldout: list[PreferenceRow] = field(default_factory=list)
    opinions: list[PreferenceRow] = field(default_factory=list)
    """Held-out comparisons under one principle each."""
    comparisons: list[Comparison] = field(default_factory=list)
    preferences: list[Preference] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    passed_over: list[str] = field(default_factory=list)
    """Preference ids of rows that would have been chosen, had they been read whole."""

    @property
    def key(self) -> dict[str, object]:
        """What a stage's key holds of the choice: nothing where all that were chosen first are read whole."""
        return {"passed_over": short_digest(self.passed_over)} if self.passed_over else {}


def human_comparisons(ctx: Inputs) -> list[HumanComparison]:
    """The pairs people compared, each once; data sets that are only measured come first."""
    found = []
    seen: set[str] = set()
    for source in sorted(ctx.recipe.pm.human, key=lambda source: source.weight > 0):
        path = str(resolve_path(ctx.recipe_file, source.path))
        name = Path(path).name if Path(path).exists() else source.path
        for pair in load_pairs(path, source.limit):
            comparison = Comparison(
                prompt_id=short_digest([m.model_dump() for m in pair.messages]),
                messages=pair.messages,
                a=pair.chosen,
                b=pair.rejected,
                origin="human",
            )
            if comparison.id not in seen:
                seen.add(comparison.id)
                flag = next((f for f in pair.flags if f in _NO_ANSWER), None)
                found.append(HumanComparison(name, source.weight, comparison, flag))
    return found


def conditions(ctx: Inputs) -> list[Condition]:
    """The principles a conditioned model is asked under: those that judge, and what no principle stands behind."""
    principles = ctx.taking_part("judge")
    named = [
        Condition(principle=p.ref, text=p.score_request or p.comparison_request or p.title, weight=p.weight)
        for p in principles
    ]
    overall = ctx.recipe.pm.human or ctx.recipe.pm.contrast
    return [*named, *([Condition(principle="overall", text=OVERALL)] if overall else [])]


def preference_rows(ctx: Inputs, done: Done, human: Sequence[HumanComparison], reader: Reader = "pm") -> PreferenceRows:
    """Rows for training and for measuring; all comparisons of one conversation land on the same side.

    Where `pm.rows` counts them they are chosen from those that `reader` reads whole.

    Raises:
        TrainingError: one of the sides is empty, or a conditioned model finds no principle's opinion to learn from.
    """
    rows, settings = PreferenceRows(), ctx.recipe.pm
    sides: dict[str, bool] = {}  # conversations of the run's labels, True where held out
    if "label" in done:
        labels, comparisons, measured = _labelled(ctx, done)
        for label in labels:
            comparison = comparisons[label.comparison_id]
            sides[short_digest([m.model_dump() for m in comparison.messages])] = comparison.prompt_id in measured
        _label_rows(ctx, done, rows, labels, comparisons, measured)
    _human_rows(ctx, rows, human, sides)
    _take(rows, settings.rows, ctx, reader)
    if settings.conditioned and not any(row.principles for row in rows.train):
        raise TrainingError("pm.conditioned: no principle's opinion to train on (the labels are not the judge's)")
    if not rows.train or not rows.heldout:
        raise TrainingError(
            f"pm: {len(rows.train)} labelled comparisons to train on and {len(rows.heldout)} held out; both need at "
            "least one"
        )
    return rows


def policy_rows(ctx: Inputs, done: Done, human: Sequence[HumanComparison]) -> PreferenceRows:
    """The rows a policy learns from directly: those of a preference model that reads no principles.

    Without people's preferences they are the run's labels that are not held out, and nothing is measured on the others.

    Raises:
        TrainingError: there is none, or not as many as `pm.rows` says.
    """
    settings = ctx.recipe.pm
    if human:
        plain = settings.model_copy(update={"conditioned": False})
        return preference_rows(replace(ctx, recipe=ctx.recipe.model_copy(update={"pm": plain})), done, human, "rl")
    labels, comparisons, measured = _labelled(ctx, done)
    rows = PreferenceRows()
    for label in labels:
        comparison = comparisons[label.comparison_id]
        if comparison.prompt_id not in measured:
            rows.train.append(_row(comparison, label, "ai" if label.judgment_ids else "provenance", 1.0, None))
    _take(rows, settings.rows, ctx, "rl")
    if not rows.train:
        raise TrainingError(f"rl: no labelled comparison to train on ({len(labels)} held out)")
    return rows


def preferences_key(ctx: Inputs, done: Done, human: Sequence[HumanComparison]) -> dict[str, object]:
    """What the key of a stage that learns from `policy_rows` holds of them besides the label step."""
    settings = ctx.recipe.pm
    key: dict[str, object] = {"heldout": settings.heldout}
    if human:
        key["human"] = short_digest([[item.comparison.id, item.weight] for item in human])
        key["ai_weight"] = settings.ai_weight
    if settings.rows:
        key |= {"rows": settings.rows.model_dump(), **policy_rows(ctx, done, human).key}
    return key


def _take(rows: PreferenceRows, wanted: RowSettings | None, ctx: Inputs, reader: Reader) -> None:
    """Leaves as many training rows of each source as wanted, all of them such as are read whole.

    Raises:
        TrainingError: there are fewer.
    """
    if wanted is None:
        return
    why = unread(ctx, reader)
    kept: set[str] = set()
    for name, count, human in (("labels", wanted.ai, False), ("human preferences", wanted.human, True)):
        own = sorted((row for row in rows.train if (row.source == "human") == human), key=lambda row: row.preference_id)
        taken: list[str] = []
        for row in own:
            if len(taken) == count:
                break
            if (reason := why(row)) is None:
                taken.append(row.preference_id)
            else:
                rows.failures.append(reason)
                rows.passed_over.append(row.preference_id)
        if len(taken) < count:
            unfit = f", {len(own) - len(taken)} of them not read whole" if len(taken) < len(own) else ""
            raise TrainingError(f"pm.rows: {count} rows of {name} wanted, {len(own)} there are to train on{unfit}")
        kept.update(taken)
    rows.train = [row for row in rows.train if row.preference_id in kept]


def _labelled(ctx: Inputs, done: Done) -> tuple[list[Preference], dict[str, Comparison], set[str]]:
    """The run's labels, the comparisons they are of by id, and the prompts that are held out."""
    labels = [p for p in done["label"].records(Preference) if p.p_a is not None]
    text = (done["label"].folder / "comparisons.jsonl").read_text("utf-8")
    comparisons = {c.id: c for c in map(Comparison.model_validate_json, text.split("\n")[:-1])}
    # the prompts of lowest id are held out: a draw by content, and never none of them
    measured = _lowest({comparisons[p.comparison_id].prompt_id for p in labels}, ctx.recipe.pm.heldout)
    return labels, comparisons, measured


def _label_rows(
    ctx: Inputs,
    done: Done,
    rows: PreferenceRows,
    labels: Sequence[Preference],
    comparisons: dict[str, Comparison],
    measured: set[str],
) -> None:
    settings = ctx.recipe.pm
    judgments = done["judge"].records(Judgment) if "judge" in done else []
    made = done["label"]
    fitted = made.read(CALIBRATIONS, Calibration) if CALIBRATIONS in made.manifest.outputs else []
    by_comparison = opinions(judgments, calibrated(fitted))
    texts = {c.principle: c.text for c in conditions(ctx)} if settings.conditioned else {}
    for label in labels:
        comparison = comparisons[label.comparison_id]
        held = comparison.prompt_id in measured
        source: Literal["ai", "provenance"] = "ai" if label.judgment_ids else "provenance"
        own = []
        for opinion in by_comparison.get(comparison.id, []) if label.judgment_ids else []:
            if settings.conditioned and opinion.principle not in texts:
                continue  # judged by a principle that takes no part any more
            preference = Preference(
                comparison_id=comparison.id,
                p_a=clamped(opinion, ctx.recipe.label.clamp).p_a,
                rule="principle",
                judgment_ids=opinion.judgment_ids,
                principles=(opinion.principle,),
            )
            text = texts.get(opinion.principle)
            own.append((preference, _row(comparison, preference, "ai", settings.ai_weight, text)))
        if settings.conditioned:
            trained = [row for _, row in own] or [_row(comparison, label, source, settings.ai_weight, OVERALL)]
        else:
            trained = [_row(comparison, label, source, settings.ai_weight, None)]
        if held:
            rows.heldout += trained
            rows.opinions += [row for _, row in own]
        elif settings.ai_weight:
            rows.train += trained
        if settings.conditioned or held:
            rows.preferences += [preference for preference, _ in own]


def _human_rows(
    ctx: Inputs,
    rows: PreferenceRows,
    human: Sequence[HumanComparison],
    sides: dict[str, bool],
) -> None:
    settings = ctx.recipe.pm
    for item in human:
        if item.flag is not None:
            failed = Failure(item_id=item.comparison.id, stage="pm", kind=f"human_{item.flag}", message=item.dataset)
            rows.failures.append(failed)
    usable = [item for item in human if item.flag is None]
    for name in dict.fromkeys(item.dataset for item in usable):
        own = [item for item in usable if item.dataset == name]
        fresh = {item.comparison.prompt_id for item in own if item.comparison.prompt_id not in sides}
        measured = _lowest(fresh, settings.heldout if own[0].weight else 1)
        # in this order no later data set trains on a conversation that an earlier one is measured on
        sides.update({prompt_id: prompt_id in measured for prompt_id in fresh})
        for item in own:
            comparison, held = item.comparison, sides[item.comparison.prompt_id]
            if not held and not item.weight:
                message = f"{name}: its conversation is trained on"
                failed = Failure(item_id=comparison.id, stage="pm", kind="human_trained_on", message=message)
                rows.failures.append(failed)
                continue
            preference = Preference(comparison_id=comparison.id, p_a=1.0, rule="human", judgment_ids=(), principles=())
            text = OVERALL if settings.conditioned else None
            row = _row(comparison, preference, "human", item.weight, text, dataset=name)
            (rows.heldout if held else rows.train).append(row)
            rows.comparisons.append(comparison)
            rows.preferences.append(preference)


def _row(
    comparison: Comparison,
    preference: Preference,
    source: Literal["ai", "human", "provenance"],
    weight: float,
    text: str | None,
    *,
    dataset: str | None = None,
) -> PreferenceRow:
    p_a = preference.p_a or 0.0
    chosen, rejected = (comparison.a, comparison.b) if preference.a_chosen else (comparison.b, comparison.a)
    return PreferenceRow(
        messages=comparison.messages,
        chosen=chosen,
        rejected=rejected,
        probability=max(p_a, 1 - p_a),
        preference_id=preference.id,
        comparison_id=comparison.id,
        source=source,
        principles=preference.principles,
        weight=weight or 1.0,  # a weight of 0 is that of rows which are only measured
        dataset=dataset,
        principle_text=text,
    )


def _lowest(prompt_ids: Iterable[str], share: float) -> set[str]:
    ordered = sorted(prompt_ids)
    return set(ordered[: math.ceil(share * len(ordered))])
