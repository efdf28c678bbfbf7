"""Commands for models behind servers: what a recipe would ask of them, and answers of offline services read back."""

from __future__ import annotations

from pathlib import Path

import typer


def estimate_command(
    recipe_file: Path, sets: list[str], limit: int | None, prompts: str | None, until: str | None
) -> None:
    """Prints the estimate of a recipe."""
    from constitutional.cli.running import placing, with_options
    from constitutional.config import load_recipe
    from constitutional.pipeline import chosen_steps
    from constitutional.pipeline.estimate import estimate
    from constitutional.pipeline.estimate_table import render_estimate
    from constitutional.pipeline.inputs import load_inputs
    from constitutional.pipeline.preflight import check_cases, check_trainings

    sets = with_options(sets, limit, prompts)
    recipe = load_recipe(recipe_file, sets)
    with placing(recipe_file, sets):
        inputs, steps = load_inputs(recipe, recipe_file), chosen_steps(recipe, until)
        check_trainings(recipe, steps)
        check_cases(inputs, steps)
        typer.echo(render_estimate(estimate(inputs, steps)))
    if recipe.rounds is not None:
        typer.echo(f"that is one round, with the held-out prompts of all; the recipe has {recipe.rounds}")


def batch_command(run_folder: Path, answers: list[Path]) -> None:
    """Reads answers into a run and says how many could be used."""
    from constitutional.backends.endpoint.batch_files import read_batch
    from constitutional.backends.endpoint.calls import NAME, Calls
    from constitutional.errors import RunError
    from constitutional.runs import open_run

    if not (run_folder / NAME).is_file():
        raise RunError(f"{run_folder}: no run that wrote batch files (no {NAME})")
    with open_run(run_folder):
        calls = Calls(run_folder / NAME)
        for path in answers:
            found = read_batch(calls, path)
            said = [f"{found.kept} answers read"]
            said += [f"{found.rejected} rejected for good, which are failures now"] if found.rejected else []
            said += [f"{n} unused: {reason}" for reason, n in found.unused.items()]
            typer.echo(f"{path}: {'; '.join(said)}")
        waiting = len(calls.noted(waiting=True))
        calls.close()
    typer.echo(f"{waiting} calls wait" if waiting else "no call waits: give the run's command again")
