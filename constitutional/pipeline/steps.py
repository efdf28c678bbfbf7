"""The steps of a recipe, in order: which there are, which a recipe runs, and what a run folder says of them."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from constitutional.audit.model_card import write_cards
from constitutional.backends.memory import release_memory
from constitutional.errors import ConfigError, RunError
from constitutional.feedback.gate import require
from constitutional.interop.pairs import UNUSABLE
from constitutional.pipeline.context import MODEL_NAMES, Context, Done
from constitutional.pipeline.evaluation_steps import answers_step, evaluate_step
from constitutional.pipeline.feedback_steps import helpful_step, revise_step, sample_step
from constitutional.pipeline.forgetting import check_perplexity
from constitutional.pipeline.inputs import Inputs
from constitutional.pipeline.judging_steps import gate_step, judge_step, label_step, load_gate
from constitutional.pipeline.lost import UNANSWERED, check_lost
from constitutional.pipeline.preflight import (
    check_human_preferences,
    check_label,
    check_launch,
    check_models,
    check_prompts,
    check_sources,
    check_steps,
    check_trainings,
)
from constitutional.pipeline.rewarding import check_rewards
from constitutional.pipeline.rounds import check_rounds
from constitutional.pipeline.training_steps import pm_step, rl_step, sft_step
from constitutional.pipeline.watching import check_watch
from constitutional.runs import RunFolder, StageResult, load_result, write_atomic
from constitutional.runs.manifest import Manifest, package_versions
from constitutional.settings import Recipe

Step = Callable[[Context, Done, int], StageResult]

STEPS: dict[str, Step] = {
    "revise": revise_step,
    "helpful": helpful_step,
    "sft": sft_step,
    "sample": sample_step,
    "gate": gate_step,
    "judge": judge_step,
    "label": label_step,
    "pm": pm_step,
    "rl": rl_step,
    "answers": answers_step,
    "evaluate": evaluate_step,
}
"""Every step, in order. A step reads the results of earlier ones by name."""


@dataclass(frozen=True)
class StepOutcome:
    """What happened to one step in this invocation."""

    name: str
    result: StageResult
    reused: bool


@dataclass(frozen=True)
class RunOutcome:
    """What a run left: its folder, its steps in order, and its report."""

    folder: Path
    steps: tuple[StepOutcome, ...]
    report: Path

    @property
    def bad_items(self) -> int:
        """Failures that say something of the input; two equal answers to a prompt are no fault."""
        kinds = ("too_long", "empty_generation", "empty", "check_error", *UNUSABLE, *UNANSWERED)
        return sum(step.result.manifest.failures.get(kind, 0) for step in self.steps for kind in kinds)

    @property
    def failures(self) -> int:
        """Items that failed, over all steps."""
        return sum(sum(step.result.manifest.failures.values()) for step in self.steps)


def check_recipe(inputs: Inputs, until: str | None = None) -> None:
    """Raises what a run would run into: missing steps, models or held-out prompts. Opens no model."""
    steps = chosen_steps(inputs.recipe, until)
    by_provenance = inputs.recipe.label.source == "provenance"
    contrast = inputs.recipe.sample.contrast if by_provenance else None
    check_steps(steps, human_preferences=bool(inputs.recipe.pm.human), contrast=contrast)
    check_launch(inputs.recipe, steps)
    check_trainings(inputs.recipe, steps)
    check_sources(inputs, steps)
    check_label(inputs, steps)
    check_human_preferences(inputs, steps)
    check_rewards(inputs, steps)
    check_watch(inputs, steps)
    check_models(inputs, steps)
    check_prompts(inputs, steps)
    check_perplexity(inputs, steps)
    check_rounds(inputs, chosen_steps(inputs.recipe))


_PLACES = TypeAdapter(dict[str, str])


def chosen_steps(recipe: Recipe, until: str | None = None) -> list[str]:
    """Names of the steps a recipe runs, in order, up to `until`."""
    wanted = [name for name in STEPS if recipe.stages is None or name in recipe.stages]
    if until is None:
        return wanted
    if until not in wanted:
        raise ConfigError(f"the recipe leaves out the step '{until}'")
    return wanted[: wanted.index(until) + 1]


def run_steps(ctx: Context, until: str | None, fail_on_error: float | None = None) -> tuple[StepOutcome, ...]:
    """Runs the steps of the recipe up to `until`, reusing what is finished, and keeps the run folder's list of them."""
    done: Done = {}
    outcomes: list[StepOutcome] = []
    for name in chosen_steps(ctx.recipe, until):
        ctx.display.stage(name)
        number = list(STEPS).index(name) + 1
        ctx.folder.engine.enter(name, number, done)
        result = STEPS[name](ctx, done, number)
        reused = not result.fresh
        done[name] = result
        outcomes.append(StepOutcome(name, result, reused))
        manifest = result.manifest
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 // 10**6
        ctx.folder.event(
            "step", step=name, key=result.key, reused=reused, seconds=manifest.seconds, peak_memory_mb=memory
        )
        failed = f", failures: {manifest.failures}" if manifest.failures else ""
        how = f"reused{_made_with(manifest)}" if reused else f"done in {manifest.seconds:.0f} s"
        ctx.display.say(f"{name}: {how}, {manifest.counts}{failed}")
        _write_current(ctx.folder, done)
        if name in MODEL_NAMES:
            _show_model(ctx, name, result, reused)
        if fail_on_error is not None:
            check_lost(name, result, fail_on_error)
        if name == "gate":
            require(load_gate(result))
        release_memory()
    return tuple(outcomes)


def _made_with(manifest: Manifest) -> str:
    """The packages whose version is another one now than when the step was made; nothing when there are none."""
    then, current = manifest.versions, package_versions()
    other = [f"{name} {then[name]}" for name in then if then[name] != current.get(name)]
    return f" (made with {', '.join(other)})" if other else ""


def current_results(folder: RunFolder) -> Done:
    """The finished steps the run folder names as current.

    Raises:
        RunError: what names them cannot be read.
    """
    path = folder.path / "current.json"
    try:
        named = _PLACES.validate_json(path.read_bytes()) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read; delete it: what is finished is found again") from error
    found = {name: load_result(folder.path / place) for name, place in named.items() if name in STEPS}
    return {name: result for name, result in found.items() if result is not None}


def _write_current(folder: RunFolder, done: Done) -> None:
    """current.json: the steps of this run, and later ones of an earlier run that were made from these very results."""
    kept = {**done}
    for name, result in current_results(folder).items():
        inputs = result.manifest.inputs
        if name not in done and all(i in kept and kept[i].manifest.built == inputs[i].built for i in inputs):
            kept[name] = result
    places = {name: kept[name].folder.relative_to(folder.path).as_posix() for name in STEPS if name in kept}
    write_atomic(folder.path / "current.json", json.dumps(places, indent=2) + "\n")


def _show_model(ctx: Context, step: str, result: StageResult, reused: bool) -> None:
    """models/NAME points at the model of a step that is current, and its card stands beside it.

    The card is not left to the end of the run: a later step may fail, and the model is there to be used.
    """
    name = MODEL_NAMES[step]
    link, target = ctx.folder.path / "models" / name, result.folder / name
    same = reused and link.is_symlink() and link.resolve() == target.resolve()
    temporary = link.with_name(f".{name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(os.path.relpath(target, link.parent), target_is_directory=True)
    temporary.replace(link)
    if not same or not link.with_name(f"{name}.md").exists():
        write_cards(ctx.folder.path, ctx.recipe, ctx.constitution, ctx.every_prompt, {step: name})
