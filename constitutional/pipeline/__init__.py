"""The recipe as the paper draws it: revise → SFT → sample → judge → label → preference model → RL → evaluate.

Only this package reads and writes run folders; the steps' own functions take records and give records.
"""

from __future__ import annotations

import json
import os
import platform
import resource
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import yaml

from constitutional.audit.arms import Arms
from constitutional.audit.current import CHECKS_SUFFIX
from constitutional.audit.model_card import write_cards
from constitutional.audit.report import write_report
from constitutional.backends.memory import release_memory
from constitutional.checks import coded_digest
from constitutional.display import Display, Silent
from constitutional.errors import ConfigError, GateError, PendingError, RunError, nearest
from constitutional.feedback.gate import require
from constitutional.interop.pairs import UNUSABLE
from constitutional.ledger import open_ledger, open_ledger_read_only
from constitutional.pipeline.arms import compare_arms
from constitutional.pipeline.context import MODEL_NAMES, Context, Done, Inputs, load_inputs
from constitutional.pipeline.evaluation_steps import answers_step, evaluate_step
from constitutional.pipeline.feedback_steps import helpful_step, revise_step, sample_step
from constitutional.pipeline.forgetting import check_perplexity
from constitutional.pipeline.judging_steps import gate_step, judge_step, label_step, load_gate
from constitutional.pipeline.lost import UNANSWERED, check_lost
from constitutional.pipeline.preflight import (
    check_constitution,
    check_human_preferences,
    check_label,
    check_ledger,
    check_models,
    check_prompts,
    check_sources,
    check_steps,
)
from constitutional.pipeline.rewarding import check_rewards
from constitutional.pipeline.rounds import check_folder, check_rounds, run_rounds
from constitutional.pipeline.team import Team, leading, open_team, refuse_several, results
from constitutional.pipeline.training_steps import pm_step, rl_step, sft_step
from constitutional.pipeline.watching import check_watch
from constitutional.processes import leads
from constitutional.runs import RunFolder, StageResult, follow_run, load_result, open_run, write_atomic
from constitutional.runs.engine import Engine, Here
from constitutional.runs.manifest import Manifest, git_commit, now, package_versions
from constitutional.settings import Recipe

Step = Callable[[Context, Done, int], StageResult]

OpenEngine = Callable[[Inputs, RunFolder, Display], AbstractContextManager[Engine]]
"""Opens what makes the chunks of a run, for as long as the run lasts."""

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


def run_recipe(
    recipe: Recipe,
    recipe_file: Path,
    run_folder: Path,
    *,
    until: str | None = None,
    display: Display | None = None,
    accept_constitution: str | None = None,
    budget: float | None = None,
    fail_on_error: float | None = None,
    batch: Path | None = None,
    engine: OpenEngine | None = None,
) -> RunOutcome:
    """Runs a recipe in a run folder; what is finished there under the same settings is reused.

    A recipe with `rounds` is run so many times over; the outcome then holds the steps of all rounds.
    Under `torchrun` or `accelerate launch` the leading process does so, and the others join it in the trainings.

    Args:
        recipe: the settings.
        recipe_file: the file they come from; relative paths are looked up beside it.
        run_folder: made when absent, locked while the run lasts.
        until: the last step to run; all when None.
        display: where progress is told.
        accept_constitution: the name of the recipe's constitution, where the folder was made under another one.
        budget: US dollars that calls to servers may cost, those of earlier attempts in this folder included.
        fail_on_error: share of a step's items from which on their failure ends the run.
        batch: a folder for batch files: calls to servers are written there instead of being made.
        engine: what makes the chunks of the data steps; this process when None. No result depends on it.

    Raises:
        ConstitutionalError: bad input (before anything is written), a failed gate, a training that cannot go on.
        BudgetError: the next calls may cost more than the budget.
        PendingError: calls wait in batch files.
        ShardDone: the engine was to make a shard, and has.
    """
    if until is not None and until not in STEPS:
        raise ConfigError(f"unknown step '{until}'{nearest(until, STEPS)}")
    if recipe.rounds is not None and engine is not None:  # a worker reads the recipe, and would know of no round
        raise ConfigError("rounds: an engine and shards are for recipes without them; leave --engine and --shard out")
    for needed, what in ((engine, "an engine or a shard"), (recipe.rounds, "rounds")):
        if needed is not None:
            refuse_several(what)
    inputs = load_inputs(recipe, recipe_file)
    if leads():
        check_recipe(inputs, until)

    def run_one(own: Inputs, folder: Path, last: str | None) -> RunOutcome:
        return run_inputs(
            own,
            folder,
            until=last,
            display=display,
            accept_constitution=accept_constitution,
            budget=budget,
            fail_on_error=fail_on_error,
            batch=batch,
            engine=engine,
        )

    check_folder(run_folder, rounds=recipe.rounds is not None)
    if recipe.rounds is None:
        return run_one(inputs, run_folder, until)
    steps = run_rounds(
        inputs,
        chosen_steps(recipe),
        run_folder,
        lambda *given: run_one(*given).steps,
        until=until,
        display=display,
    )
    return RunOutcome(run_folder, steps, run_folder / "report.html")


def run_arms(
    recipe: Recipe,
    recipe_file: Path,
    run_folder: Path,
    *,
    arms: Sequence[str],
    judge: str,
    rows: int | None = None,
    display: Display | None = None,
    budget: float | None = None,
) -> Arms:
    """Runs a recipe on people's preferences, on its own labels and on both, and compares what comes of it.

    Arguments and errors are those of `arms.compare_arms` and `run_recipe`.
    """
    refuse_several("arms")
    inputs = load_inputs(recipe, recipe_file)
    check_recipe(inputs)
    shown = display or Silent()

    def run_one(own: Inputs, folder: Path, last: str) -> tuple[StepOutcome, ...]:
        return run_inputs(own, folder, until=last, display=shown, budget=budget).steps

    steps = chosen_steps(recipe)
    return compare_arms(inputs, steps, run_folder, run_one, arms=arms, judge=judge, rows=rows, display=shown)


def run_inputs(
    inputs: Inputs,
    run_folder: Path,
    *,
    until: str | None = None,
    display: Display | None = None,
    accept_constitution: str | None = None,
    budget: float | None = None,
    fail_on_error: float | None = None,
    batch: Path | None = None,
    engine: OpenEngine | None = None,
) -> RunOutcome:
    """Runs the steps of loaded inputs once; arguments and errors are those of `run_recipe`."""
    if leads():
        check_recipe(inputs, until)
    team = open_team(budget)
    if team is not None and not leads():
        return _join(team, inputs, run_folder)
    with leading(team), open_run(run_folder) as folder, open_ledger(folder.ledger_path) as ledger:
        check_constitution(folder.path, inputs.constitution, accept_constitution)
        check_ledger(ledger, list(_current(folder).values()))
        _write_lock(folder, inputs)
        shown = display or Silent()
        context = Context(
            **inputs.__dict__,
            folder=folder,
            ledger=ledger,
            display=shown,
            budget=budget,
            batch=batch,
            team=team,
        )
        try:
            with engine(inputs, folder, shown) if engine else nullcontext(Here()) as folder.engine:
                steps = _run_steps(context, until, fail_on_error)
        except PendingError as error:
            raise PendingError(context.write_waiting()) from error
        except GateError:  # the report says why the judge failed
            write_report(folder.path, inputs.recipe, inputs.constitution, inputs.every_prompt)
            raise
        finally:
            context.close_calls()
        report = write_report(folder.path, inputs.recipe, inputs.constitution, inputs.every_prompt)
        write_cards(folder.path, inputs.recipe, inputs.constitution, inputs.every_prompt, MODEL_NAMES)
        folder.event("finished", steps=[step.name for step in steps])
        return RunOutcome(folder.path, steps, report)


def _join(team: Team, inputs: Inputs, run_folder: Path) -> RunOutcome:
    """What the processes do that do not lead: they train along, and write nothing."""
    while (call := team.listen()) is not None:
        with follow_run(run_folder) as folder, open_ledger_read_only(folder.ledger_path) as ledger:
            context = Context(**inputs.__dict__, folder=folder, ledger=ledger, display=Silent(), team=team)
            STEPS[call.step](context, results(run_folder, call), call.number)
        release_memory()
    return RunOutcome(run_folder, (), run_folder / "report.html")


def check_recipe(inputs: Inputs, until: str | None = None) -> None:
    """Raises what a run would run into: missing steps, models or held-out prompts. Opens no model."""
    steps = chosen_steps(inputs.recipe, until)
    by_provenance = inputs.recipe.label.source == "provenance"
    contrast = inputs.recipe.sample.contrast if by_provenance else None
    check_steps(steps, human_preferences=bool(inputs.recipe.pm.human), contrast=contrast)
    check_sources(inputs, steps)
    check_label(inputs, steps)
    check_human_preferences(inputs, steps)
    check_rewards(inputs, steps)
    check_watch(inputs, steps)
    check_models(inputs, steps)
    check_prompts(inputs, steps)
    check_perplexity(inputs, steps)
    check_rounds(inputs, chosen_steps(inputs.recipe))


def chosen_steps(recipe: Recipe, until: str | None = None) -> list[str]:
    """Names of the steps a recipe runs, in order, up to `until`."""
    wanted = [name for name in STEPS if recipe.stages is None or name in recipe.stages]
    if until is None:
        return wanted
    if until not in wanted:
        raise ConfigError(f"the recipe leaves out the step '{until}'")
    return wanted[: wanted.index(until) + 1]


def _run_steps(ctx: Context, until: str | None, fail_on_error: float | None = None) -> tuple[StepOutcome, ...]:
    done: Done = {}
    outcomes: list[StepOutcome] = []
    for name in chosen_steps(ctx.recipe, until):
        ctx.display.stage(name)
        begun, number = now(), list(STEPS).index(name) + 1
        ctx.folder.engine.enter(name, number, done)
        result = STEPS[name](ctx, done, number)
        reused = result.manifest.ended < begun
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
            _link_model(ctx.folder, MODEL_NAMES[name], result)
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


def _current(folder: RunFolder) -> Done:
    """The finished steps the run folder names as current."""
    path = folder.path / "current.json"
    named = json.loads(path.read_text("utf-8")) if path.exists() else {}
    found = {name: load_result(folder.path / place) for name, place in named.items() if name in STEPS}
    return {name: result for name, result in found.items() if result is not None}


def _write_current(folder: RunFolder, done: Done) -> None:
    """current.json: the steps of this run, and later ones of an earlier run that were made from these very results."""
    kept = {**done}
    for name, result in _current(folder).items():
        inputs = result.manifest.inputs
        if name not in done and all(i in kept and kept[i].manifest.built == inputs[i].built for i in inputs):
            kept[name] = result
    places = {name: kept[name].folder.relative_to(folder.path).as_posix() for name in STEPS if name in kept}
    write_atomic(folder.path / "current.json", json.dumps(places, indent=2) + "\n")


def _link_model(folder: RunFolder, name: str, result: StageResult) -> None:
    """models/NAME points at the model of the step that is current."""
    link = folder.path / "models" / name
    temporary = link.with_name(f".{name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(os.path.relpath(result.folder / name, link.parent), target_is_directory=True)
    temporary.replace(link)


def _write_lock(folder: RunFolder, inputs: Inputs) -> None:
    """run.yaml (the recipe as resolved) and lock.json (what it resolved to)."""
    recipe, constitution, pack = inputs.recipe, inputs.constitution, inputs.pack
    identities = {ref: check.identity for ref, check in inputs.checks.items()}
    write_atomic(folder.path / "run.yaml", yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False))
    lock = {
        "constitution": {"ref": constitution.ref, "digest": constitution.digest},
        "principles": {p.ref: coded_digest(p, identities.get(p.ref)) for p in constitution.principles},
        **({"checks": identities} if identities else {}),
        "templates": {"pack": pack.ref, **{name: pack.digest(name) for name in pack.templates}},
        "models": {role: inputs.identity(role) for role in ("policy", "feedback", "judge")},
        **_more_judges(inputs),
        "prompts": len(inputs.every_prompt),
        "seed": recipe.seed,
        "versions": package_versions(),
        "python": platform.python_version(),
        "git": git_commit(),
    }
    write_atomic(folder.path / "lock.json", json.dumps(lock, indent=2) + "\n")
    kept = folder.path / "constitutions" / f"{constitution.digest}.json"  # one for every text a judgment may cite
    kept.parent.mkdir(exist_ok=True)
    for path in (kept, folder.path / "constitution.json"):
        write_atomic(path, constitution.to_json() + "\n")
    if identities:
        _keep_code(kept.with_name(kept.stem + CHECKS_SUFFIX), identities)
    write_atomic(folder.path / "prompts.jsonl", "".join(p.to_json() + "\n" for p in inputs.every_prompt))


def _more_judges(inputs: Inputs) -> dict[str, dict[str, str]]:
    """The judges besides the labels' one, by name; nothing where there are none."""
    found = {juror.name: juror.identity(inputs.recipe.dtype) for juror in inputs.jury[1:]}
    return {"judges": found} if found else {}


def _keep_code(path: Path, identities: dict[str, str]) -> None:
    """Adds what the code of a constitution's checks is now to what it was before under the same text."""
    try:
        known = json.loads(path.read_bytes())["checks"] if path.exists() else []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}: cannot be read: move the run folder aside") from error
    if identities not in known:
        write_atomic(path, json.dumps({"checks": [*known, identities]}, indent=2) + "\n")
