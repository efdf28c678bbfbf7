"""What the longer commands do."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import typer

from constitutional.display import printable
from constitutional.processes import leads

BAD_ITEMS_EXIT = 3
"""The run is complete, but some items could not be used (too long, empty): see the summary and the report."""


def run_command(
    recipe_file: Path,
    out: Path | None,
    sets: list[str],
    limit: int | None,
    prompts: str | None,
    until: str | None,
    display_mode: str,
    accept_constitution: str | None = None,
    **calling: Any,
) -> None:
    """Runs a recipe up to a step and prints where the report is; `calling` is for servers, as in `run_recipe`."""
    from constitutional.config import load_recipe
    from constitutional.display import open_display
    from constitutional.pipeline import run_recipe

    sets = with_options(sets, limit, prompts)
    recipe = load_recipe(recipe_file, sets)
    folder = out or Path("runs") / recipe.name
    with open_display(display_mode if leads() else "none") as display, placing(recipe_file, sets):
        outcome = run_recipe(
            recipe,
            recipe_file,
            folder,
            until=until,
            display=display,
            accept_constitution=accept_constitution,
            **calling,
        )
    if not leads():
        return
    table = "\n\n".join(text for text in (evaluation_table(outcome.folder), rounds_table(outcome.folder)) if text)
    if table:
        typer.echo(table)
    if outcome.failures:
        typer.echo(f"{outcome.failures} items failed and are listed in the report")
    typer.echo(f"report: {outcome.report}")
    if outcome.bad_items:
        raise typer.Exit(BAD_ITEMS_EXIT)


def with_options(sets: list[str], limit: int | None, prompts: str | None) -> list[str]:
    """The settings of a command, its options for prompts as `--set` would give them; those written out win."""
    if limit is not None:
        kinds = ("red_team", "helpful")
        sets = [*(f"prompts.{kind}.limit={limit}" for kind in kinds), *sets]
    return sets if prompts is None else [f"prompts.red_team.path={prompts}", *sets]


def placing(recipe_file: Path, sets: Sequence[str] = ()) -> AbstractContextManager[None]:
    """Errors from within that begin with a setting's name get the place that sets it."""
    from constitutional.config import placed, recipe_marks
    from constitutional.errors import retold

    marks = recipe_marks(recipe_file, sets)  # before the work: the file may be another, or gone, when it fails
    return retold(lambda message: placed(message, marks))


def evaluation_table(folder: Path) -> str:
    """The evaluation of a run as text; empty when it has none."""
    from constitutional.audit.evaluation_table import render_evaluation

    return printable(render_evaluation(folder))


def rounds_table(folder: Path) -> str:
    """What the rounds of a run came to; empty when it has none."""
    from constitutional.audit.rounds import render_rounds

    return render_rounds(folder)


def validate_command(path: Path) -> None:
    """Loads a recipe with everything it names, or a constitution, and says what is in it."""
    from constitutional.config import holds_constitution, load_recipe
    from constitutional.constitution import load_composed
    from constitutional.constitution.code import open_checks
    from constitutional.constitution.lock import check_lock
    from constitutional.constitution.packs import open_pack
    from constitutional.errors import ConfigError, ConstitutionError
    from constitutional.resources import find
    from constitutional.yamlfile import load_yaml

    if not path.exists():
        with suppress(ConfigError):  # the name of a shipped constitution
            path = find("constitutions", str(path))
    data, _ = load_yaml(path, ConfigError)
    if holds_constitution(data):
        composed = load_composed(str(path))
        constitution = composed.constitution
        open_checks(composed)
        changed = check_lock(str(path))
        if changed:
            raise ConstitutionError("\n".join(problem.line for problem in changed))
        open_pack(composed)
        for note in composed.notes:
            typer.echo(f"note: {note}")
        examples = sum(len(p.examples) for p in constitution.principles)
        principles = len(constitution.principles)
        typer.echo(f"{path}: constitution {constitution.ref}, {principles} principles, {examples} examples: ok")
        return
    from constitutional.pipeline import check_recipe
    from constitutional.pipeline.inputs import load_inputs

    recipe = load_recipe(path)
    with placing(path):
        inputs = load_inputs(recipe, path)
        check_recipe(inputs)
    typer.echo(
        f"{path}: recipe '{inputs.recipe.name}', constitution {inputs.constitution.ref}, "
        f"templates {inputs.pack.ref}, {len(inputs.prompts)} prompts: ok"
    )


def report_command(run_folder: Path) -> None:
    """Writes the report of a run again."""
    from constitutional.audit.current import open_view
    from constitutional.audit.report import write_report
    from constitutional.settings import Recipe

    view = open_view(run_folder)
    recipe = Recipe.model_validate(view.recipe)
    typer.echo(f"report: {write_report(run_folder, recipe, view.constitution, list(view.prompts.values()))}")


def list_command() -> None:
    """Prints the embedded models, and what translations for openvino: take in the cache."""
    from constitutional.backends.embedded import models_table
    from constitutional.backends.openvino_model import translations

    for row in models_table():
        typer.echo(f"{row.name:<20} {row.state:<8} {row.bytes / 1e6:>7.0f} MB  {row.licence:<10} {row.title}")
    if kept := translations():
        taken = sum(file.stat().st_size for folder in kept for file in folder.iterdir()) / 1e6
        typer.echo(f"\ntranslated for openvino: {len(kept)}, {taken:.0f} MB in {kept[0].parent}")
        typer.echo("(what no run is using may be deleted: it is made anew when needed)")


def fetch_command(name: str) -> None:
    """Fetches and converts one embedded model, telling how far it is."""
    from constitutional.backends.embedded import convert, fetch

    last = ""

    def progress(what: str, done: int, total: int) -> None:
        nonlocal last
        line = f"{name}: {what} {100 * done // max(total, 1)} %"
        if line != last and (done == total or (100 * done // max(total, 1)) % 10 == 0):
            typer.echo(line, err=True)
            last = line

    fetch(name, progress=progress)
    typer.echo(f"{name}: ready at {convert(name, progress=progress)}")
    if find_spec("openvino_genai") is not None:
        from constitutional.backends.openvino import prepare_model

        typer.echo(f"{name}: preparing for openvino, once")
        prepare_model(name)
