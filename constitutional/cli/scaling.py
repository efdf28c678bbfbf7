"""Options that spread the data steps over processes and machines, and the command that brings shards together."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from constitutional.pipeline import OpenEngine

ENGINES = ("local", "ray")

EngineName = Annotated[
    str,
    typer.Option("--engine", help="What makes the chunks of the data steps: local or ray; results are the same."),
]
Address = Annotated[
    str | None,
    typer.Option(help="With --engine ray: a running cluster (auto, HOST:PORT); this machine when not given."),
]
WorkerCount = Annotated[
    int | None,
    typer.Option(help="With --engine ray: worker processes; one a processor, or GPU, by default.", min=1),
]
Shards = Annotated[
    str | None,
    typer.Option(
        "--shard", metavar="I/N", help="Make every N-th chunk of the first unfinished step and stop (see `merge`)."
    ),
]

Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        help="CPU threads of models that run here; by the processors that may be used when not given. The last digits "
        "of what a model computes may depend on it.",
        min=1,
    ),
]


def with_threads(sets: list[str] | None, threads: int | None) -> list[str]:
    """The settings of a command, with `--threads` as the recipe's `threads`."""
    return [*(sets or []), *([] if threads is None else [f"threads={threads}"])]


def chosen_engine(
    engine: str, address: str | None, workers: int | None, shard: str | None, calling: Mapping[str, object]
) -> OpenEngine | None:
    """What is to make the chunks; None for this process.

    Raises:
        ConfigError: options that do not go together.
    """
    from constitutional.errors import ConfigError, nearest

    if engine not in ENGINES:
        raise ConfigError(f"--engine: no engine '{engine}'{nearest(engine, ENGINES)}")
    if engine == "local" and (address is not None or workers is not None):
        raise ConfigError("--address and --workers go with --engine ray")
    if shard is not None:
        from constitutional.pipeline.shards import open_shard, parse_shard

        if engine == "ray":
            raise ConfigError("--shard is for clusters without Ray: leave out --engine ray")
        if calling.get("budget") is not None:
            raise ConfigError(
                "--budget counts the calls of one process, and each shard would spend it whole: leave it out"
            )
        return partial(open_shard, parse_shard(shard))
    if engine == "local":
        return None
    for name in ("budget", "batch"):
        if calling.get(name) is not None:
            raise ConfigError(f"--{name} counts or collects the calls of one process: leave out --engine ray")
    from constitutional.pipeline.ray_engine import RayChoice, open_ray

    return partial(open_ray, RayChoice(address, workers))


def merge(
    run_folder: Annotated[Path, typer.Argument(help="Run folder, made when absent.", metavar="RUN")],
    shards: Annotated[list[Path], typer.Argument(help="Folders made with --shard, all of them.", metavar="SHARD...")],
) -> None:
    """Bring the chunks of all shards of a stage together in one run folder; its own command then goes on there."""
    from constitutional.pipeline.merge import merge_shards

    found = merge_shards(run_folder, shards)
    told = f", {found.judgments} judgments" if found.judgments else ""
    typer.echo(f"{found.stage}: {found.chunks} chunks{told} in {run_folder}: give the run's command there to go on")


def add(app: typer.Typer) -> None:
    """Adds the command to the program."""
    app.command()(merge)
