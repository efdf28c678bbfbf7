"""The commands for drafting: a file to start from, and what a model gets to read."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

STEPS = (
    "validate {file}",
    "lint {file}",
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


def add(app: typer.Typer) -> None:
    """Adds the commands to the program."""
    app.command()(init)
