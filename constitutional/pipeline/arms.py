"""Arms of one recipe: people's preferences alone, the run's own labels alone, or both; all else the same.

    NAME/  arms.yaml  arms.json  arms.md  stages/ ledger.sqlite ... (shared)  arms/rlhf/ arms/rlaif/ arms/hybrid/

An arm is a run folder over the shared store, so what is the same in several arms is done once. Every arm learns from as
many preferences, over the same prompts in as many steps; that is held by `pm.rows` and read again from the results.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import yaml

from constitutional.audit.arms import ArmBudget, Arms, render_arms
from constitutional.display import Display
from constitutional.errors import ConfigError, DataError, TrainingError, nearest
from constitutional.evaluation.answers import ARMS, EvaluatedAnswer, System
from constitutional.evaluation.evaluate import (
    KINDS,
    Evaluation,
    answer_pairs,
    changes,
    system_rows,
    wins_by_judge,
)
from constitutional.feedback.judge import choose_principles
from constitutional.ledger import open_ledger
from constitutional.pipeline.apart import conversation_digest, trained_conversations
from constitutional.pipeline.asking import asked_key, judged, run_judge
from constitutional.pipeline.context import MODEL_NAMES, Context, Done
from constitutional.pipeline.evaluation_steps import Pairs, answer_stage
from constitutional.pipeline.forgetting import forgetting
from constitutional.pipeline.inputs import Inputs
from constitutional.pipeline.judging_steps import gate_step, load_gate
from constitutional.pipeline.jury import MODEL
from constitutional.pipeline.preference_rows import human_comparisons, preference_rows
from constitutional.pipeline.preflight import check_models
from constitutional.pipeline.readable import unread
from constitutional.pipeline.shared import share
from constitutional.runs import StageResult, open_run, write_atomic
from constitutional.runs.logs import read_rows
from constitutional.settings import RowSettings
from constitutional.settings.loop import PerplexitySettings
from constitutional.training.rows import PreferenceModelResult, PreferenceRow, RlResult

if TYPE_CHECKING:
    from constitutional.pipeline import StepOutcome

Run = Callable[[Inputs, Path, str], tuple["StepOutcome", ...]]
"""Runs the steps of one arm in a folder, up to a step."""

FOLDER = "arms"
_AI_STEPS = ("sample", "gate", "judge", "label")
_GATE, _ANSWERS, _EVALUATE = 5, 10, 11
"""Numbers of the stages that compare arms: those of the steps they are like."""


def check_arms(inputs: Inputs, steps: Sequence[str], arms: Sequence[str], judge: str) -> tuple[System, ...]:
    """The arms to run, in the order rlhf, rlaif, hybrid.

    Raises:
        ConfigError: no such arm, a recipe that cannot have it, or a judge that takes part in one.
    """
    recipe = inputs.recipe
    for name in arms:
        if name not in ARMS:
            raise ConfigError(f"--arms: no arm '{name}'{nearest(name, ARMS)}")
    chosen = tuple(arm for arm in ARMS if arm in arms)
    if len(chosen) < 2:
        raise ConfigError(f"--arms: {len(chosen)} arm has nothing to be compared with")
    if recipe.rounds is not None:
        raise ConfigError("rounds: arms are compared over one round: leave it out")
    if recipe.pm.conditioned or recipe.pm.rows is not None:
        name = "conditioned" if recipe.pm.conditioned else "rows"
        raise ConfigError(f"pm.{name}: arms are given as many rows each (--rows): leave it out")
    if any(part.kind == "judge" for part in recipe.rl.parts):
        raise ConfigError("rl.rewards: a judge would reward in every arm, that of people's preferences too")
    if recipe.rl.algorithm != "dpo" and not recipe.rl.needs_preference_model:
        raise ConfigError("rl.rewards: nothing that learns from preferences rewards: all arms would be the same")
    if {"rlhf", "hybrid"} & set(chosen) and not any(source.weight for source in recipe.pm.human):
        raise ConfigError("pm.human: names no preferences of people to learn from: give --human FILE")
    for step in ("rl", *(_AI_STEPS if recipe.label.source == "judge" else ("label",))):
        if step not in steps:
            raise ConfigError(f"stages: arms need the step '{step}', which is left out")
    own = judging_inputs(inputs, judge)
    known = {juror.identity(recipe.dtype) for juror in inputs.jury}
    if own.juror.identity(recipe.dtype) in known:
        raise ConfigError(f"--judge: {judge} makes the labels that an arm learns from: name one of no arm")
    check_models(own, ("evaluate",))
    return chosen


def judging_inputs(inputs: Inputs, judge: str) -> Inputs:
    """The inputs under another judge, of whom the labels are not."""
    settings, scores = inputs.recipe.judging, judge.startswith(MODEL)
    own = settings.model_copy(
        update={
            "judges": (),
            "labels": "judge",
            **({"mode": None, "samples": None, "sampling": None} if scores or settings.mode == "model" else {}),
            **({"shot_principles": "same"} if scores else {}),
        }
    )
    gate = inputs.recipe.gate.model_copy(update={"fallback": "provenance"})
    return replace(inputs, recipe=inputs.recipe.model_copy(update={"judge": judge, "judging": own, "gate": gate}))


def arm_inputs(inputs: Inputs, steps: Sequence[str], arm: System, rows: int | None) -> Inputs:
    """The inputs of one arm, which learns from `rows` preferences; of all there are when None."""
    recipe, left_out = inputs.recipe, {"answers", "evaluate"}
    human = recipe.pm.human
    if arm == "rlhf":
        left_out |= set(_AI_STEPS)
    if arm == "rlaif":
        human = tuple(source for source in human if not source.weight)
    budget = None
    if rows is not None:
        ai = {"rlhf": 0, "rlaif": rows, "hybrid": rows // 2}[arm]
        budget = RowSettings(ai=ai, human=rows - ai)
    own: dict[str, object] = {
        "name": f"{recipe.name[:70]}.{arm}",
        "stages": tuple(step for step in steps if step not in left_out),
        "pm": recipe.pm.model_copy(update={"human": human, "rows": budget}),
    }
    return replace(inputs, recipe=recipe.model_copy(update=own))


def compare_arms(
    inputs: Inputs,
    steps: Sequence[str],
    run_folder: Path,
    run: Run,
    *,
    arms: Sequence[str],
    judge: str,
    rows: int | None,
    display: Display,
) -> Arms:
    """Runs the arms of a recipe and compares them on held-out prompts; what is finished is reused.

    Args:
        inputs: of the recipe.
        steps: of the recipe.
        run_folder: made when absent, locked while it lasts. arms.json and arms.md are written there.
        run: runs one arm.
        arms: which of them.
        judge: spec of a model, or `model:FOLDER`, that takes part in no arm.
        rows: preferences that each arm learns from; as many as all of them have when None.
        display: where progress is told.

    Raises:
        ConfigError: as `check_arms`; a preference model as judge that was trained on what the arms learn from.
        DataError: no held-out red-team prompt.
        TrainingError: fewer preferences than wanted.
    """
    chosen = check_arms(inputs, steps, arms, judge)
    inputs, left_out = _kept_apart(inputs, steps)
    note = _unknown_to(judging_inputs(inputs, judge), inputs, steps)
    with open_run(run_folder) as folder:
        write_atomic(folder.path / "arms.yaml", yaml.safe_dump(inputs.recipe.model_dump(mode="json"), sort_keys=False))
        count = _rows(inputs, steps, chosen, folder.path, run, rows)
        done: dict[System, Done] = {}
        for arm in chosen:
            display.say(f"arm {arm}: {count} preferences")
            made = run(arm_inputs(inputs, steps, arm, count), share(folder.path, f"{FOLDER}/{arm}"), "rl")
            done[arm] = {step.name: step.result for step in made}
        own = judging_inputs(inputs, judge)
        with open_ledger(folder.ledger_path) as ledger:
            ctx = Context(**own.__dict__, folder=folder, ledger=ledger, display=display)
            try:
                gate, evaluation = load_gate(gate_step(ctx, {}, _GATE)), _evaluated(ctx, chosen, done)
            finally:
                ctx.close_calls()
        budgets = tuple(_budget(arm, done[arm]) for arm in chosen)
        asked = [load_gate(found["gate"]) for found in done.values() if "gate" in found]
        found = Arms(
            recipe=inputs.recipe.name,
            seed=inputs.recipe.seed,
            constitution=inputs.constitution.ref,
            against=_against(done[chosen[0]]),
            budgets=budgets,
            equal=len({budget.spent for budget in budgets}) == 1,
            ai_weight=inputs.recipe.pm.ai_weight,
            human_weights={source.path: source.weight for source in inputs.recipe.pm.human},
            gate=asked[0] if asked else None,
            judge=own.identity("judge"),
            judge_is="preference model" if judge.startswith(MODEL) else "judge",
            judge_gate=gate,
            judge_note=note,
            prompts={kind: n for kind in KINDS if (n := len(inputs.select(kind, "heldout")))},
            left_out=left_out,
            evaluation=evaluation,
        )
        write_atomic(folder.path / "arms.json", found.to_json() + "\n")
        write_atomic(folder.path / "arms.md", render_arms(found) + "\n")
        folder.event("arms", arms=list(chosen), rows=count, equal=found.equal)
    return found


def _kept_apart(inputs: Inputs, steps: Sequence[str]) -> tuple[Inputs, int]:
    """The inputs without held-out prompts whose conversation is trained on, and how many there were."""
    seen = trained_conversations(inputs, steps)
    kept = tuple(p for p in inputs.prompts if p.split == "train" or conversation_digest(p.messages) not in seen)
    found = replace(inputs, prompts=kept)
    if not found.select("red_team", "heldout"):
        raise DataError("compare-arms: no held-out red-team prompt that no arm is trained on")
    return found, len(inputs.prompts) - len(kept)


def _unknown_to(own: Inputs, inputs: Inputs, steps: Sequence[str]) -> str:
    """What is known of what a preference model as judge learned from.

    Raises:
        ConfigError: of the arms' training conversations, or of the held-out prompts.
    """
    spec = own.juror.spec
    if not spec.startswith(MODEL):
        return "it makes no arm's labels"
    rows = Path(spec.removeprefix(MODEL)).resolve().parent / "rows.jsonl"
    if not rows.is_file():
        return "what it was trained on is not known"
    learned = {conversation_digest(PreferenceRow.model_validate(row).messages) for _, row in read_rows(rows)}
    for name, told in (
        ("the arms learn from", trained_conversations(inputs, steps)),
        ("it is to judge", {conversation_digest(p.messages) for p in inputs.prompts if p.split == "heldout"}),
    ):
        if shared := learned & told:
            raise ConfigError(f"--judge: {spec} was trained on {len(shared)} of the conversations that {name}")
    return f"none of its {len(learned)} training conversations is an arm's, or one of the held-out prompts"


def _rows(
    inputs: Inputs, steps: Sequence[str], chosen: Sequence[System], store: Path, run: Run, wanted: int | None
) -> int:
    """How many preferences every arm can learn from: `wanted`, or the most; an even number where one is a hybrid.

    Raises:
        TrainingError: an arm has fewer.
    """
    label: Done = {}
    labelling = next((arm for arm in chosen if arm != "rlhf"), None)
    if labelling is not None:
        made = run(arm_inputs(inputs, steps, labelling, None), share(store, f"{FOLDER}/{labelling}"), "label")
        label = {step.name: step.result for step in made}
    room: dict[System, int] = {}
    for arm in chosen:
        own = arm_inputs(inputs, steps, arm, None)
        why = unread(own, "rl" if own.recipe.rl.algorithm == "dpo" else "pm")
        rows = preference_rows(own, {} if arm == "rlhf" else label, human_comparisons(own)).train
        found = [row for row in rows if why(row) is None]
        people = sum(row.source == "human" for row in found)
        ai = len(found) - people
        room[arm] = {"rlhf": people, "rlaif": ai, "hybrid": 2 * min(people, ai)}[arm]
    count = min(room.values()) if wanted is None else wanted
    count -= count % 2 if "hybrid" in chosen else 0
    if count < 2 or count > min(room.values()):
        told = ", ".join(f"{arm} {n}" for arm, n in room.items())
        raise TrainingError(f"compare-arms: {count} preferences for each arm; there are: {told}")
    return count


def _against(done: Done) -> System:
    return "sl-cai" if "sft" in done else "base"


def _evaluated(ctx: Context, chosen: Sequence[System], done: Mapping[System, Done]) -> Evaluation:
    """Answers of every arm and of what RL started from, compared by the judge; perplexity; rates."""
    first = done[chosen[0]]
    systems: dict[System, str] = {"base": ctx.spec("policy")}
    inputs: dict[str, StageResult] = {}
    if "sft" in first:
        systems["sl-cai"], inputs["sft"] = ctx.trained(first, "sft"), first["sft"]
    for arm in chosen:
        systems[arm], inputs[arm] = f"local:{done[arm]['rl'].folder.resolve() / MODEL_NAMES['rl']}", done[arm]["rl"]
    ctx.display.stage("answers")
    result = answer_stage(ctx, "arm-answers", _ANSWERS, systems, inputs)
    answers = result.records(EvaluatedAnswer)
    against, settings = _against(first), ctx.recipe.evaluation
    matches = [(arm, against) for arm in chosen]
    matches += [(one, other) for i, other in enumerate(chosen) for one in chosen[i + 1 :]]
    pairs: Pairs = {
        (one, other, kind): answer_pairs(ctx.select(kind, "heldout"), answers, one, other)[: settings.judge_limit]
        for one, other in matches
        for kind in KINDS
        if kind != "benign"
    }
    principles = [p for p in ctx.taking_part("evaluate") if p.ref not in ctx.checks]
    count = None if settings.principles_per_comparison == "all" else settings.principles_per_comparison
    asked = [c for found in pairs.values() for c in found if c.a != c.b]
    assigned = {c.id: choose_principles(c.id, principles, count, ctx.recipe.seed) for c in asked}
    wins = []
    ctx.display.stage("evaluate")
    if principles:
        key: dict[str, object] = {"asked": [c.id for c in asked], "count": count}
        key |= {**asked_key(ctx, principles), **ctx.case_key(principles)}
        stage = ctx.folder.stage(_EVALUATE, "arm-judge", key)
        run_judge(ctx, stage, asked, assigned, ask_applies=True)
        stage.finish(ledger_head=ctx.ledger.head)
        by: Literal["preference model", "judge"] = "preference model" if ctx.juror.spec.startswith(MODEL) else "judge"
        wins = wins_by_judge(pairs, judged(ctx, asked, assigned, ask_applies=True), by)
    rows = system_rows(answers, list(systems))
    forgotten = forgetting(_measuring(ctx), _EVALUATE, systems, inputs)
    return Evaluation(rows=rows, changes=changes(rows), wins=tuple(wins), perplexity=forgotten[0] if forgotten else ())


def _measuring(ctx: Context) -> Context:
    """With perplexity measured where there is something to measure it on."""
    settings = ctx.recipe.evaluation
    if settings.perplexity is not None or not ctx.select("helpful", "heldout"):
        return ctx
    measured = settings.model_copy(update={"perplexity": PerplexitySettings()})
    return replace(ctx, recipe=ctx.recipe.model_copy(update={"evaluation": measured}))


def _budget(arm: System, done: Done) -> ArmBudget:
    rl = RlResult.model_validate_json((done["rl"].folder / "result.json").read_bytes())
    pm = None
    if "pm" in done:
        pm = PreferenceModelResult.model_validate_json((done["pm"].folder / "result.json").read_bytes())
    held = done["rl"] if "rows.jsonl" in done["rl"].manifest.outputs else done["pm"]
    given = held.read("rows.jsonl", PreferenceRow)
    prompts = done["rl"].manifest.settings.get("prompts")
    people = sum(row.source == "human" for row in given)
    return ArmBudget(
        arm=arm,
        ai_rows=len(given) - people,
        human_rows=people,
        rows=pm.rows if pm else rl.rows,
        pm_steps=pm.steps if pm else None,
        rl_steps=rl.steps,
        rollouts=rl.completions,
        rl_prompts=str(prompts) if prompts is not None else None,
    )
