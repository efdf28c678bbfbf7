"""Options and arguments that several commands take alike."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RecipeFile = Annotated[Path, typer.Argument(help="Recipe file (YAML).", metavar="RECIPE")]
RunPath = Annotated[Path, typer.Argument(help="Run folder.", metavar="RUN")]
Out = Annotated[Path | None, typer.Option("--out", help="Run folder; runs/NAME when not given.")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="Override a setting: section.key=value. Repeatable.")]
Limit = Annotated[int | None, typer.Option(help="At most this many training prompts of each kind.", min=1)]
Prompts = Annotated[str | None, typer.Option(help="Red-team prompts: a jsonl(.gz) file or hub data set.")]
Show = Annotated[str, typer.Option("--display", help="rich, plain, none, or auto.")]
Accept = Annotated[
    str | None,
    typer.Option(
        "--accept-constitution", help="Go on in a folder made under another constitution: the new id@version."
    ),
]
Budget = Annotated[
    float | None, typer.Option(help="US dollars that calls to servers may cost, earlier attempts included.", min=0)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
