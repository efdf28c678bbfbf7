"""The commands that audit judgments: `audit RUN…` and `audit diff`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from constitutional.cli.authoring import AsJson

_DEFAULT = "runs"


class _RunsByDefault(TyperGroup):
    """`audit RUN` is `audit runs RUN`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("--help", "--debug"):
            args = [_DEFAULT, *args]
        return list(super().parse_args(ctx, args))


audit = typer.Typer(
    cls=_RunsByDefault,
    no_args_is_help=True,
    help="`audit RUN...`: what each principle, judge and version is worth, with n and interval of every figure. "
    "`audit diff`: what a new wording changes. A run folder of the name of a command: ./diff.",
)

Runs = Annotated[list[Path], typer.Argument(help="Run folders.", metavar="RUN...")]
Labels = Annotated[
    list[Path] | None,
    typer.Option("--labels", help="JSON lines of labels: comparison_id, preferred (a, b, tie), source. Repeatable."),
]
By = Annotated[list[str] | None, typer.Option("--by", help="Slice by this column, too. Repeatable.")]
Parquet = Annotated[
    Path | None, typer.Option("--parquet", help="Write principles.parquet and opinions.parquet to a folder.")
]
Draws = Annotated[int, typer.Option("--resamples", help="Bootstrap draws.", min=1)]
Seed = Annotated[int, typer.Option(help="Of the bootstrap.")]


@audit.command(_DEFAULT)
def runs_command(
    runs: Runs,
    as_json: AsJson = False,
    parquet: Parquet = None,
    labels: Labels = None,
    by: By = None,
    resamples: Draws = 1000,
    seed: Seed = 0,
) -> None:
    """Audit the judgments of run folders; `audit RUN...` is short for it. Nothing in them is changed."""
    from constitutional.audit.measures.audit import audit_table
    from constitutional.audit.measures.corpus import load_corpus
    from constitutional.audit.measures.parquet import write_parquet
    from constitutional.audit.measures.slices import check_columns
    from constitutional.audit.measures.table import make_table
    from constitutional.audit.measures.terminal import print_audit

    check_columns(by or [])
    table = make_table(load_corpus(runs, labels or []))
    found = audit_table(table, by=by or [], resamples=resamples, seed=seed)
    written = write_parquet(parquet, found, table) if parquet is not None else ()
    if as_json:
        typer.echo(json.dumps(found.model_dump(mode="json"), indent=2))
    else:
        print_audit(found, console())
    for path in written:
        typer.echo(f"wrote {path}", err=True)


def console() -> Any:
    """Where tables go: a terminal as wide as it is, else 100 columns."""
    from rich.console import Console

    from constitutional.audit.measures.terminal import WIDTH

    return Console(width=None if Console().is_terminal else WIDTH, highlight=False)


def add(app: typer.Typer) -> None:
    """Adds the commands to the program."""
    app.add_typer(audit, name="audit")
