"""The commands that put labelled pairs to a judge without a training run, and write what a run said elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from constitutional.cli.options import RunPath, Sets, Show
from constitutional.cli.scaling import Address, EngineName, Shards, Threads, WorkerCount, chosen_engine, with_threads
from constitutional.cli.testing import Judge, Seed, Templates
from constitutional.display import printable

if TYPE_CHECKING:
    from constitutional.settings import Recipe

Pairs = Annotated[str, typer.Argument(help="Labelled pairs: .jsonl(.gz), .json, .csv or a hub data set.")]
Out = Annotated[Path | None, typer.Option("--out", help="Run folder; runs/NAME-OF-PAIRS when not given.")]
Limit = Annotated[int | None, typer.Option("--limit", help="At most so many rows.", min=1)]
Kind = Annotated[str, typer.Option("--kind", help="What the prompts are: red_team, helpful or benign.")]


def judge_pairs(
    pairs: Pairs,
    constitution: Annotated[str, typer.Option("--constitution", help="A file, or the name of a packaged one.")],
    judge: Judge,
    out: Out = None,
    templates: Templates = None,
    limit: Limit = None,
    kind: Kind = "helpful",
    sets: Sets = None,
    seed: Seed = 0,
    display: Show = "auto",
    engine: EngineName = "local",
    address: Address = None,
    workers: WorkerCount = None,
    shard: Shards = None,
    threads: Threads = None,
) -> None:
    """Judge human-labelled pairs under a constitution: every principle, both orders, the labels kept.

    Reads hh-rlhf rows, TRL preference rows, AnnotatedPairs and the csv of Inverse Constitutional AI. Which of chosen
    and rejected becomes answer a is drawn by the seed. Writes a run folder (comparisons, labels, ledger); what is
    finished there is not asked again. Exits with 3 when rows could not be used: they are counted and listed.
    """
    from constitutional.cli.running import BAD_ITEMS_EXIT
    from constitutional.display import open_display
    from constitutional.interop.names import slug
    from constitutional.pipeline import run_recipe

    name = slug(Path(pairs).name.split(".")[0])
    given = with_threads(sets, threads)
    recipe = pairs_recipe(
        name, pairs, constitution, judge, templates=templates, limit=limit, kind=kind, seed=seed, sets=given
    )
    with open_display(display) as shown:
        made_by = chosen_engine(engine, address, workers, shard, {})
        outcome = run_recipe(recipe, Path("run.yaml"), out or Path("runs") / name, display=shown, engine=made_by)
    results = {step.name: step.result for step in outcome.steps}
    counts = results["sample"].manifest.counts
    typer.echo(
        f"{counts['records']} pairs, {results['judge'].manifest.counts['records']} judgments; labels: "
        f"{counts['label_a']} a, {counts['label_b']} b, {counts['label_tie']} tie"
    )
    left_out = {failure.kind: failure for failure in reversed(results["sample"].failures())}  # the first of each kind
    for failure_kind, number in results["sample"].manifest.failures.items():
        why = f" ({left_out[failure_kind].message})" if failure_kind in left_out else ""
        typer.echo(printable(f"{number} rows left out: {failure_kind}{why}"))
    typer.echo(f"labels: {results['sample'].folder / 'labels.jsonl'}")
    typer.echo(f"ledger: {outcome.folder / 'ledger.sqlite'}")
    if outcome.bad_items:
        raise typer.Exit(BAD_ITEMS_EXIT)


def export_judgments(
    run_folder: RunPath,
    format_name: Annotated[str, typer.Option("--format", help="annotated-pairs, icai-results or trl.")],
    out: Annotated[Path | None, typer.Option("--out", help="File to write; of icai-results, a folder.")] = None,
    original: Annotated[
        Path | None, typer.Option(help="annotated-pairs: the file the pairs came from, to keep what else is in it.")
    ] = None,
) -> None:
    """Write what a run's judge said of its comparisons in another format; what that cannot hold is listed on stderr.

    annotated-pairs opens in Feedback Forensics; icai-results is the results folder of Inverse Constitutional AI (pairs,
    principles, votes); trl is preference rows with the columns that trace them.
    """
    from constitutional.atomic import cannot_write
    from constitutional.audit.judged import read_judged
    from constitutional.cli.authoring import give
    from constitutional.errors import ConfigError
    from constitutional.interop.judged import export_judged

    exported = export_judged(read_judged(run_folder), format_name, original=original)
    if "" not in exported.files:
        if out is None:
            raise ConfigError(f"--format {format_name} writes {len(exported.files)} files: name a folder with --out")
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(out, error) from error
    for number, (name, text) in enumerate(exported.files.items(), start=1):
        last = number == len(exported.files)
        give(text, exported.lost if last else (), out / name if out and name else out)


def export_revisions(
    run_folder: RunPath,
    out: Annotated[Path | None, typer.Option("--out", help="Write to this file instead of the terminal.")] = None,
) -> None:
    """Write a run's critiques and revisions as the samples of Bai et al. 2022 (JSON lines); what is lost is listed."""
    from constitutional.audit.judged import read_revision_samples
    from constitutional.cli.authoring import give

    text, lost = read_revision_samples(run_folder)
    give(text, lost, out)


def pairs_recipe(
    name: str,
    pairs: str,
    constitution: str,
    judge: str,
    *,
    templates: str | None,
    limit: int | None,
    kind: str,
    seed: int,
    sets: Sequence[str] = (),
) -> Recipe:
    """The recipe that judges a file of pairs and does nothing else."""
    from constitutional.config import make_recipe

    return make_recipe(
        {
            "name": name,
            "seed": seed,
            "constitution": constitution,
            "templates": templates,
            "policy": judge,  # answers nothing here
            "judge": judge,
            "stages": ["sample", "judge"],
            "sample": {"pairs": {"path": pairs, "limit": limit, "kind": kind}},
        },
        sets,
    )


def add(app: typer.Typer) -> None:
    """Adds the commands to the program."""
    app.command("judge-pairs")(judge_pairs)
    app.command("export-judgments")(export_judgments)
    app.command("export-revisions")(export_revisions)
