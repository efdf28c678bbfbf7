"""The label command: run a recipe up to its labels, or say what another rule would change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from constitutional.cli.options import Accept, AsJson, Limit, Out, Prompts, RecipeFile, Sets, Show
from constitutional.display import printable


def label(
    recipe: RecipeFile,
    out: Out = None,
    sets: Sets = None,
    limit: Limit = None,
    prompts: Prompts = None,
    display: Show = "auto",
    accept_constitution: Accept = None,
    rule: Annotated[
        str | None, typer.Option("--rule", help="With --compare: the rule to compare, where not the recipe's.")
    ] = None,
    compare: Annotated[
        str | None, typer.Option("--compare", help="Only say what this rule would change; the run stays as it is.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Turn judgments into soft labels. Runs what it depends on first where that is not finished.

    With --compare nothing is run or written: the judgments that the run has are labelled by both rules.
    """
    if compare is None:
        if rule is not None or as_json:
            raise typer.BadParameter("--rule and --json go with --compare; to label by a rule: --set label.rule=RULE")
        from constitutional.cli.running import run_command

        run_command(recipe, out, sets or [], limit, prompts, "label", display, accept_constitution)
        return
    if limit is not None or prompts is not None or accept_constitution is not None:
        raise typer.BadParameter("--compare looks at a finished run: it takes --out, --set, --rule and --json only")
    from constitutional.config import load_recipe
    from constitutional.feedback.label.compare import comparison_lines
    from constitutional.pipeline.labelling import compare_rules

    loaded = load_recipe(recipe, sets or [])
    found, labellers = compare_rules(loaded, recipe, out or Path("runs") / loaded.name, rule, compare)
    if as_json:
        fits = [
            {
                "calibrations": [c.model_dump(mode="json") for c in labeller.calibrations],
                "weights": labeller.weights.model_dump(mode="json") if labeller.weights else None,
            }
            for labeller in labellers
        ]
        typer.echo(json.dumps({**found.model_dump(mode="json"), "fits": fits}, indent=2))
        return
    fitted = dict.fromkeys(line for labeller in labellers for line in labeller.lines)
    typer.echo(printable("\n".join([*comparison_lines(found), *fitted])))


def add(app: typer.Typer) -> None:
    """Adds the command to the program."""
    app.command()(label)
