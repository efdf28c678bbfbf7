"""The recipe as the paper draws it: revise → SFT → sample → judge → label → preference model → RL → evaluate.

Only this package reads and writes run folders; the steps' own functions take records and give records.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from constitutional.activity import listening
from constitutional.audit.arms import Arms
from constitutional.audit.model_card import write_cards
from constitutional.audit.report import write_report
from constitutional.backends.memory import release_memory
from constitutional.backends.vllm import close_idle
from constitutional.display import Display, Silent
from constitutional.errors import ConfigError, GateError, PendingError, nearest
from constitutional.ledger import open_ledger, open_ledger_read_only
from constitutional.pipeline.arms import compare_arms
from constitutional.pipeline.context import MODEL_NAMES, Context
from constitutional.pipeline.inputs import Inputs, load_inputs
from constitutional.pipeline.lock import write_lock
from constitutional.pipeline.preflight import (
    check_constitution,
    check_ledger,
    check_place,
)
from constitutional.pipeline.rounds import check_folder, run_rounds
from constitutional.pipeline.steps import (
    STEPS,
    RunOutcome,
    StepOutcome,
    check_recipe,
    chosen_steps,
    run_steps,
)
from constitutional.pipeline.team import Team, leading, open_team, refuse_several, results
from constitutional.processes import leads
from constitutional.runs import RunFolder, follow_run, open_run
from constitutional.runs.engine import Engine, Here
from constitutional.runs.manifest import finished_results
from constitutional.settings import Recipe

__all__ = [
    "STEPS",
    "OpenEngine",
    "RunOutcome",
    "StepOutcome",
    "check_recipe",
    "chosen_steps",
    "run_arms",
    "run_inputs",
    "run_recipe",
]

OpenEngine = Callable[[Inputs, RunFolder, Display], AbstractContextManager[Engine]]
"""Opens what makes the chunks of a run, for as long as the run lasts."""


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
    accept_constitution: str | None = None,
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
        return run_inputs(
            own, folder, until=last, display=shown, accept_constitution=accept_constitution, budget=budget
        ).steps

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
        check_place(run_folder)
    team = open_team(budget)
    if team is not None and not leads():
        return _join(team, inputs, run_folder)
    with leading(team), open_run(run_folder) as folder, open_ledger(folder.ledger_path) as ledger:
        check_constitution(folder.path, inputs.constitution, accept_constitution)
        check_ledger(ledger, finished_results(folder.path))  # any of them may be found again
        write_lock(folder, inputs)
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
            made_by = engine(inputs, folder, shown) if engine else nullcontext(Here())
            with listening(shown.doing), made_by as folder.engine:
                steps = run_steps(context, until, fail_on_error)
        except PendingError as error:
            raise PendingError(context.write_waiting()) from error
        except GateError:  # the report says why the judge failed
            write_report(folder.path, inputs.recipe, inputs.constitution, inputs.every_prompt)
            raise
        finally:
            context.close_calls()
            close_idle()
        report = write_report(folder.path, inputs.recipe, inputs.constitution, inputs.every_prompt)
        made = {step.name: MODEL_NAMES[step.name] for step in steps if step.name in MODEL_NAMES}
        write_cards(folder.path, inputs.recipe, inputs.constitution, inputs.every_prompt, made)
        folder.event("finished", steps=[step.name for step in steps])
        return RunOutcome(folder.path, steps, report)


def _join(team: Team, inputs: Inputs, run_folder: Path) -> RunOutcome:
    """What the processes do that do not lead: they train along, and write nothing."""
    while (call := team.listen()) is not None:
        with follow_run(run_folder) as folder, open_ledger_read_only(folder.ledger_path) as ledger:
            context = Context(
                **inputs.__dict__, folder=folder, ledger=ledger, display=Silent(), team=team, keeps_calls=False
            )
            STEPS[call.step](context, results(run_folder, call), call.number)
        release_memory()
    return RunOutcome(run_folder, (), run_folder / "report.html")
