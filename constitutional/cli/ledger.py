"""The commands on a ledger: verify, export, query. None of them changes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from constitutional.cli.options import AsJson
from constitutional.display import printable

ledger = typer.Typer(no_args_is_help=True, help="The ledger of a run: verify, export, query. Nothing changes it.")

Where = Annotated[Path, typer.Argument(help="Run folder, or a ledger file.", metavar="RUN")]
WIDTH = 60
"""Characters of a value in a table."""


@ledger.command()
def verify(run: Where, as_json: AsJson = False) -> None:
    """Check every row's hash and place in the chain; of a run, also that nothing its steps recorded is gone.

    Exits with 1 when something is wrong.
    """
    from constitutional.audit.ledger_check import check_ledger_of

    found = check_ledger_of(run)
    if as_json:
        typer.echo(json.dumps(found.model_dump(mode="json"), indent=2))
    else:
        for line in (*found.problems, *found.remedies):
            typer.echo(printable(line), err=True)
        if found.rows is not None:
            state = "ok" if not found.problems else f"{len(found.problems)} problems"
            typer.echo(f"{found.ledger}: {found.rows} rows, head {found.head}: {state}")
    if found.problems:
        raise typer.Exit(1)


@ledger.command()
def export(
    run: Where, out: Annotated[Path, typer.Option("--out", help="File to write: .parquet or .jsonl.", metavar="FILE")]
) -> None:
    """Write every judgment with its row number and place in the chain to a file for other tools."""
    from constitutional.ledger.export import export as write
    from constitutional.ledger.file import ledger_in

    typer.echo(f"wrote {write(ledger_in(run), out)} judgments to {out}")


@ledger.command()
def query(
    run: Where,
    sql: Annotated[str, typer.Argument(help="One SELECT on the table judgments.", metavar="SQL")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a row.")] = False,
    limit: Annotated[int, typer.Option(help="At most so many rows.", min=1)] = 1000,
    seconds: Annotated[float, typer.Option(help="At most so long.", min=0.01)] = 30.0,
) -> None:
    """Ask the ledger by SQL, read-only: SELECT principle, count(*), avg(p_a) FROM judgments GROUP BY principle."""
    from constitutional.ledger.file import ledger_in
    from constitutional.ledger.query import query as ask

    found = ask(ledger_in(run), sql, limit=limit, seconds=seconds)
    if as_json:
        for row in found.rows:
            typer.echo(json.dumps(dict(zip(found.columns, map(_plain, row), strict=True))))  # escapes what is not ASCII
    else:
        cells = [found.columns, *(tuple(_cell(value) for value in row) for row in found.rows)]
        widths = [max(len(row[i]) for row in cells) for i in range(len(found.columns))]
        for row in cells:
            typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    if found.more:
        typer.echo(f"only the first {limit} rows: --limit shows more", err=True)


def _plain(value: object) -> object:
    return value.hex() if isinstance(value, bytes) else value


def _cell(value: object) -> str:
    """A value on one line of a terminal that it cannot drive."""
    from constitutional.errors import shortened

    text = "" if value is None else value.hex() if isinstance(value, bytes) else str(value)
    return shortened(printable(" ".join(text.split())), WIDTH, "…")
