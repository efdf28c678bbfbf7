"""The commands that put a constitution to a judge: test and coverage."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from constitutional.cli.authoring import Name
from constitutional.cli.options import AsJson, Show
from constitutional.cli.scaling import Threads
from constitutional.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from constitutional.ledger import Ledger
    from constitutional.records import Record

Judge = Annotated[
    str,
    typer.Option(
        "--judge", help="Model that judges: embedded:NAME, local:FOLDER, openai:MODEL@URL, vllm:MODEL, scripted:FILE."
    ),
]
Templates = Annotated[str | None, typer.Option(help="Template pack; the constitution's own when not given.")]
Seed = Annotated[int, typer.Option(help="Recorded in every judgment; draws what is drawn.")]
Share = Annotated[float | None, typer.Option(help="Exit with 1 when overall accuracy is below this.", min=0, max=1)]
Cross = Annotated[int | None, typer.Option(help="Ask about so many examples of every other principle (1).", min=0)]
Examples = Annotated[int | None, typer.Option("--limit", help="At most so many examples per principle, split.", min=1)]
Wordings = Annotated[
    str | None, typer.Option(help="Compare wordings instead: `paraphrases`, or a YAML file {id: [wordings]}.")
]
LedgerFile = Annotated[Path | None, typer.Option("--ledger", help="Keep judgments here, and ask none of them again.")]
Prompts = Annotated[str, typer.Option("--prompts", help="Prompts: a jsonl(.gz) file or hub data set.")]
Limit = Annotated[int | None, typer.Option("--limit", help="At most so many prompts.", min=1)]

WIDTH = 100


def test(
    constitution: Name,
    judge: Judge,
    as_json: AsJson = False,
    min_accuracy: Share = None,
    templates: Templates = None,
    limit: Examples = None,
    cross: Cross = None,
    wordings: Wordings = None,
    ledger: LedgerFile = None,
    seed: Seed = 0,
    display: Show = "auto",
    threads: Threads = None,
) -> None:
    """Let a judge answer the constitution's own examples, principle by principle, in both orders.

    Of a principle that is code its check answers, as in a run: the check is imported, which executes its code.

    Exits with 1 when overall accuracy is below --min-accuracy: right answers of all examples of all principles, both
    splits together, unreadable answers not right; the figure itself, not its interval, and no principle's own figure.
    """
    from constitutional.audit.probes import Asking
    from constitutional.audit.trial import run_trial
    from constitutional.audit.trial_table import trial_lines, trial_table
    from constitutional.audit.wording_candidates import candidates, contests
    from constitutional.audit.wording_table import wording_lines
    from constitutional.audit.wording_trial import compare_wordings
    from constitutional.backends import open_backend
    from constitutional.constitution import load_composed
    from constitutional.constitution.code import open_checks
    from constitutional.constitution.packs import open_pack
    from constitutional.display import open_display

    composed = load_composed(constitution)
    loaded = composed.constitution
    pack = open_pack(composed, templates)
    compared = None
    if wordings is not None:
        if min_accuracy is not None or cross is not None:
            raise ConfigError("--wordings compares wordings: it takes neither --min-accuracy nor --cross")
        compared = contests(loaded, candidates(loaded, wordings))
    checks = {} if compared is not None else open_checks(composed)
    with open_own_ledger(ledger) as kept, open_display(display) as shown:
        shown.stage("judge")
        asking = Asking(
            open_backend(judge, threads=threads),
            pack,
            seed,
            known=kept.lookup if kept else None,
            keep=kept.append if kept else None,
            progress=shown.progress,
            checks=checks,
        )
        if compared is not None:
            trial = compare_wordings(loaded, compared[0], asking, limit=limit, left_out=compared[1])
        else:
            tried = run_trial(loaded, asking, limit=limit, cross=1 if cross is None else cross)
    if compared is not None:
        _print(trial, as_json, None, wording_lines(trial))
        return
    _print(tried, as_json, trial_table(tried), trial_lines(tried))
    if min_accuracy is not None and tried.overall.share < min_accuracy:
        typer.echo(f"overall accuracy {tried.overall.share:.4f} is below --min-accuracy {min_accuracy}", err=True)
        raise typer.Exit(1)


def coverage(
    constitution: Name,
    prompts: Prompts,
    judge: Judge,
    as_json: AsJson = False,
    limit: Limit = None,
    templates: Templates = None,
    seed: Seed = 0,
    display: Show = "auto",
    threads: Threads = None,
) -> None:
    """Say how many prompts each principle applies to (by its applies_when), and which prompts none applies to."""
    from constitutional.audit.coverage import coverage as cover
    from constitutional.audit.coverage_table import coverage_lines, coverage_table
    from constitutional.backends import open_backend
    from constitutional.constitution import load_composed
    from constitutional.constitution.packs import open_pack
    from constitutional.display import open_display
    from constitutional.prompts import load_prompts

    composed = load_composed(constitution)
    loaded = composed.constitution
    pack = open_pack(composed, templates)
    asked = load_prompts(prompts, "helpful", limit=limit)
    with open_display(display) as shown:
        shown.stage("applies")
        backend = open_backend(judge, threads=threads)
        found = cover(loaded, asked, backend=backend, pack=pack, seed=seed, progress=shown.progress)
    _print(found, as_json, coverage_table(found), coverage_lines(found))


@contextmanager
def open_own_ledger(path: Path | None) -> Iterator[Ledger | None]:
    """The ledger, held by this process alone; None when there is none. A run's own is never written to."""
    if path is None:
        yield None
        return
    import filelock

    from constitutional.errors import LedgerError
    from constitutional.ledger import open_ledger

    if (path.resolve().parent / "run.yaml").exists():
        raise LedgerError(
            f"{path}: lies in the folder of a run, whose ledger takes the run's own judgments: name another"
        )
    if path.is_dir():
        raise LedgerError(f"{path}: is a folder: name a file")
    lock = filelock.FileLock(path.with_name(f"{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise LedgerError(f"{path}: in use by another process") from error
    except OSError as error:
        raise LedgerError(f"{path}: cannot be locked: {error.strerror or error}") from error
    try:
        with open_ledger(path) as ledger:
            yield ledger
    finally:
        lock.release()


def _print(record: Record, as_json: bool, table: Table | None, lines: list[str]) -> None:
    import json

    from rich.console import Console

    if as_json:
        typer.echo(json.dumps(record.model_dump(mode="json"), indent=2))
        return
    if table is not None:
        console = Console(width=None if Console().is_terminal else WIDTH, highlight=False)
        console.print(table)
    typer.echo("\n".join(lines))


def add(app: typer.Typer) -> None:
    """Adds the commands to the program."""
    for command in (test, coverage):
        app.command()(command)
