"""The commands for drafting: a file to start from, and what a model gets to read."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

DEFAULT_MODEL = "embedded:smollm2-135m"

STEPS = (
    "validate {file}",
    "lint {file}",
    'render judge --constitution {file} --principle says-when-unsure --prompt "Will it rain?"',
    f"test {{file}} --judge {DEFAULT_MODEL}",
    "lock {file}",
)
"""What the author of a new file does next."""


def init(
    path: Annotated[Path, typer.Argument(help="The new file.", metavar="PATH")] = Path("constitution.yaml"),
) -> None:
    """Write a commented constitution to start from; never over a file that is there."""
    from constitutional.constitution.starter import start
    from constitutional.display import printable
    from constitutional.interop.names import slug

    for written in start(path, slug(path.stem)):
        typer.echo(f"wrote {printable(str(written))}")
    typer.echo("\nPut your own principles in; every field is explained in the file. Then:")
    for step in STEPS:
        typer.echo(f"  constitutional {step.format(file=printable(shlex.quote(str(path))))}")


Text = Annotated[str | None, typer.Option(help="Text of this slot; a placeholder when not given.")]


def render(
    template: Annotated[
        str, typer.Argument(help="critique, revise, revise_direct, judge, judge_cot, vote, score, applies or respond.")
    ],
    principle: Annotated[str | None, typer.Option(help="Id of the principle; `respond` needs none.")] = None,
    constitution: Annotated[str, typer.Option(help="A file, or the name of a packaged constitution.")] = "minimal",
    templates: Annotated[str | None, typer.Option(help="Template pack; the constitution's own when not given.")] = None,
    model: Annotated[str, typer.Option(help="Whose tokens to show; its weights are not loaded.")] = DEFAULT_MODEL,
    plain: Annotated[bool, typer.Option("--plain", help="The messages only: needs no model.")] = False,
    prompt: Text = None,
    answer: Text = None,
    critique: Text = None,
    a: Annotated[str | None, typer.Option("--a", help="The first answer; likewise.")] = None,
    b: Annotated[str | None, typer.Option("--b", help="The second answer; likewise.")] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(help="Tokens a recipe keeps for the answer; the model's default when not given.", min=1),
    ] = None,
) -> None:
    """Show the exact text a model is asked with: chat template, control tokens, token count, room.

    Control tokens stand in double brackets; text that only looks like one does not. Exits with 1 when the question does
    not fit the model's context.
    """
    from constitutional.cli.rendering import render_command

    given = {"prompt": prompt, "answer": answer, "critique": critique, "a": a, "b": b}
    texts = {name: text for name, text in given.items() if text is not None}
    render_command(template, principle, constitution, templates, None if plain else model, texts, max_tokens)


def add(app: typer.Typer) -> None:
    """Adds the commands to the program."""
    app.command()(init)
    app.command()(render)
