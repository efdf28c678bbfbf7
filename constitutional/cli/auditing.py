"""The commands that audit judgments: `audit RUN…` and `audit diff`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from constitutional.cli.options import AsJson, Show
from constitutional.cli.scaling import Threads

if TYPE_CHECKING:
    from constitutional.feedback.judging.ways import Judge
    from constitutional.pipeline.jury import Juror
    from constitutional.principles import Constitution
    from constitutional.settings import Recipe

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
Html = Annotated[Path | None, typer.Option("--html", help="Write the audit as one HTML file without script.")]
Draws = Annotated[int, typer.Option("--resamples", help="Bootstrap draws.", min=1)]
Seed = Annotated[int, typer.Option(help="Of the bootstrap.")]


@audit.command(_DEFAULT)
def runs_command(
    runs: Runs,
    as_json: AsJson = False,
    parquet: Parquet = None,
    html: Html = None,
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
    written = list(write_parquet(parquet, found, table)) if parquet is not None else []
    if html is not None:
        from constitutional.audit.audit_view import show_table
        from constitutional.audit.pages import write_audit_page

        write_audit_page(html, show_table(table, found))
        written.append(html)
    if as_json:
        typer.echo(json.dumps(found.model_dump(mode="json"), indent=2))
    else:
        print_audit(found, console())
    for path in written:
        typer.echo(f"wrote {path}", err=True)


@audit.command("diff")
def diff_command(
    constitution: Annotated[str, typer.Option("--constitution", help="The new one: a file, or a packaged name.")],
    run: Annotated[Path, typer.Option("--run", help="The run folder whose comparisons are judged again.")],
    judge: Annotated[
        str | None, typer.Option("--judge", help="The run's judge, where its recipe's spec does not open from here.")
    ] = None,
    ledger: Annotated[
        Path | None, typer.Option("--ledger", help="Keep the new judgments here; RUN.diff.sqlite beside the run.")
    ] = None,
    estimate: Annotated[bool, typer.Option("--estimate", help="Say what it costs, and ask nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Judge without asking first.")] = False,
    as_json: AsJson = False,
    resamples: Draws = 1000,
    seed: Seed = 0,
    display: Show = "auto",
    threads: Threads = None,
) -> None:
    """Judge a run's comparisons again under the principles a new constitution changes, and say what that changes.

    Principles are the same by id, changed by digest. The run is left as it is; a call that was interrupted goes on
    where it stopped. Of a principle that is code its check answers: it is imported, which executes its code.
    """
    from constitutional.audit.current import open_view
    from constitutional.audit.measures.change_plan import judge_anew, plan
    from constitutional.audit.measures.changes import compare_versions
    from constitutional.audit.measures.changes_terminal import cost_line, diff_lines
    from constitutional.cli.testing import open_own_ledger
    from constitutional.constitution import load_composed
    from constitutional.constitution.code import open_checks
    from constitutional.constitution.packs import open_pack
    from constitutional.display import open_display
    from constitutional.settings import Recipe

    with open_view(run) as view:
        recipe, composed = Recipe.model_validate(view.recipe), load_composed(constitution)
        new = composed.constitution
        juror = _juror(recipe, new, judge)
        pack = open_pack(composed, recipe.templates)
        where = ledger or run.resolve().with_name(f"{run.resolve().name}.diff.sqlite")
        checks, model = open_checks(composed), juror.identity(recipe.dtype)
        with open_own_ledger(where) as kept:
            assert kept is not None
            made = plan(view, new, pack=pack, checks=checks, judge_model=model, way=juror.way, known=kept.lookup)
            typer.echo(cost_line(made.cost), err=True)
            if estimate:
                return
            if made.cost.to_ask and not yes:
                _confirm()
            if made.cost.to_ask:
                with open_display(display) as shown:
                    shown.stage("judge")
                    judge_anew(made, _opened(juror.spec, recipe.dtype, threads or recipe.threads), kept, shown.progress)
            found = compare_versions(made, kept, resamples=resamples, seed=seed)
    if as_json:
        typer.echo(json.dumps(found.model_dump(mode="json"), indent=2))
    else:
        typer.echo("\n".join(diff_lines(found)))


def _juror(recipe: Recipe, constitution: Constitution, spec: str | None) -> Juror:
    """The judge whose word makes the run's labels, asked as it was; maybe opened from another place."""
    from constitutional.pipeline.jury import jury

    feedback = recipe.policy if recipe.feedback == "self" else recipe.feedback
    own = {None: feedback, "self": recipe.policy}.get(recipe.judge, recipe.judge) or feedback
    judging = [p for p in constitution.principles if "judge" in p.phases]
    requests = tuple(p.comparison_request for p in judging if p.comparison_request)
    found = jury(recipe, own, lambda given: given, requests)[0]
    return found if spec is None else replace(found, spec=spec)


def _opened(spec: str, dtype: str, threads: int | None) -> Judge:
    from constitutional.backends import open_backend
    from constitutional.pipeline.jury import MODEL

    if not spec.startswith(MODEL):
        return open_backend(spec, dtype=dtype, threads=threads)
    from constitutional.training.scorer import PreferenceModel

    return PreferenceModel(spec.removeprefix(MODEL))


def _confirm() -> None:
    import sys

    from constitutional.errors import ConfigError

    if not sys.stdin.isatty():
        raise ConfigError("nobody is here to ask: give --yes to judge, or --estimate to see the cost alone")
    typer.confirm("judge?", abort=True, err=True)


def console() -> Any:
    """Where tables go: a terminal as wide as it is, else one that holds the widest table."""
    from rich.console import Console

    from constitutional.audit.measures.terminal import TABLE_WIDTH

    return Console(width=None if Console().is_terminal else TABLE_WIDTH, highlight=False)


def add(app: typer.Typer) -> None:
    """Adds the commands to the program."""
    app.add_typer(audit, name="audit")
