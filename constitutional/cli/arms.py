"""The command that runs one recipe on people's preferences, on its own labels and on both, and compares them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from constitutional.cli.options import Accept, Budget, Limit, Prompts, RecipeFile, Sets, Show
from constitutional.cli.scaling import Threads, with_threads


def compare_arms(
    recipe: RecipeFile,
    judge: Annotated[
        str, typer.Option("--judge", help="Who compares the arms, and makes no arm's labels: a model, or model:FOLDER.")
    ],
    human: Annotated[
        list[str] | None,
        typer.Option("--human", help="A file of people's preferences, in the place of pm.human. Repeatable."),
    ] = None,
    arms: Annotated[str, typer.Option("--arms", help="Which arms, with commas between.")] = "rlhf,rlaif,hybrid",
    rows: Annotated[
        int | None, typer.Option("--rows", help="Preferences each arm learns from; as many as all have.", min=2)
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder; runs/NAME-arms when not given.")] = None,
    sets: Sets = None,
    limit: Limit = None,
    prompts: Prompts = None,
    display: Show = "auto",
    accept_constitution: Accept = None,
    budget: Budget = None,
    threads: Threads = None,
) -> None:
    """Compare RLHF, RLAIF and both: same prompts, as many preferences, as many steps; one table with intervals.

    Arms are run folders in OUT/arms; what they share is done once. Writes arms.md and arms.json. Exits with 3 when the
    arms could not be given equal budgets, which the table says.
    """
    import json

    from constitutional.audit.arms import render_arms
    from constitutional.cli.running import BAD_ITEMS_EXIT, placing, with_options
    from constitutional.config import load_recipe
    from constitutional.display import open_display
    from constitutional.pipeline import run_arms

    given = [f"pm.human={json.dumps([{'path': path} for path in human])}"] if human else []
    settings = with_options([*given, *with_threads(sets, threads)], limit, prompts)
    loaded = load_recipe(recipe, settings)
    folder = out or Path("runs") / f"{loaded.name}-arms"
    with open_display(display) as shown, placing(recipe, settings):
        found = run_arms(
            loaded,
            recipe,
            folder,
            arms=[name.strip() for name in arms.split(",")],
            judge=judge,
            rows=rows,
            display=shown,
            accept_constitution=accept_constitution,
            budget=budget,
        )
    typer.echo(render_arms(found))
    typer.echo(f"figures: {folder / 'arms.json'}")
    if not found.equal:
        raise typer.Exit(BAD_ITEMS_EXIT)


def add(app: typer.Typer) -> None:
    """Adds the command to the program."""
    app.command("compare-arms")(compare_arms)
