"""The commands of authors: check, compare, version and exchange constitutions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from constitutional.cli.options import AsJson

Name = Annotated[str, typer.Argument(help="A file, or the name of a packaged constitution.", metavar="CONSTITUTION")]
ShotsFormat = Annotated[
    str | None, typer.Option("--few-shots-format", help="Their format, where it does not follow from --format.")
]
Output = Annotated[Path | None, typer.Option("--out", help="Write to this file instead of the terminal.")]


def schema(
    recipe: Annotated[
        bool, typer.Option("--recipe", help="That of a recipe: every setting, with its default.")
    ] = False,
) -> None:
    """Print the JSON Schema of a constitution file, or of a recipe, for editors."""
    from constitutional.config import recipe_schema
    from constitutional.constitution.source import file_schema

    typer.echo(json.dumps(recipe_schema() if recipe else file_schema(), indent=2))


def show(constitution: Name) -> None:
    """Print a constitution, composed of what it extends, with the place that gave each field."""
    from constitutional.constitution.loader import load_composed
    from constitutional.constitution.show import show as shown

    typer.echo(shown(load_composed(constitution)))


def lint(constitution: Name, as_json: AsJson = False) -> None:
    """Say what makes a constitution worse without making it wrong. Exits with 1 when something is found."""
    from constitutional.constitution.lint import lint as findings_of
    from constitutional.constitution.lint import places
    from constitutional.constitution.loader import load_composed
    from constitutional.constitution.rules import RULES

    composed = load_composed(constitution)
    findings = findings_of(composed.constitution)
    where = places(findings, composed.constitution, composed.marks)
    if as_json:
        rows = [{"place": place, **f.model_dump(mode="json")} for place, f in zip(where, findings, strict=True)]
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
    else:
        for place, finding in zip(where, findings, strict=True):
            subject = f"{finding.principle}: " if finding.principle else ""
            typer.echo(f"{place}: {finding.rule}: {subject}{finding.message}")
        for rule in sorted({finding.rule for finding in findings}):
            typer.echo(f"\n{rule}: {RULES[rule]}")
        typer.echo(f"{composed.constitution.ref}: {len(findings)} findings" if findings else f"{constitution}: ok")
    if findings:
        raise typer.Exit(1)


def lock(constitution: Name) -> None:
    """Write NAME.lock: the digest of every principle's texts under its version."""
    from constitutional.constitution.lock import lock as write_lock

    typer.echo(f"wrote {write_lock(constitution)}")


def bump(
    principle: Annotated[str, typer.Argument(help="Id of the principle.", metavar="ID")],
    constitution: Annotated[
        str | None,
        typer.Argument(
            help="The file; when not given, the only one here or in constitutions/ with this principle.",
            metavar="[CONSTITUTION]",
        ),
    ] = None,
    major: Annotated[bool, typer.Option("--major", help="Raise the first number.")] = False,
    minor: Annotated[bool, typer.Option("--minor", help="Raise the second number, as without a flag.")] = False,
    patch: Annotated[bool, typer.Option("--patch", help="Raise the third number.")] = False,
    text: Annotated[str | None, typer.Option("--text", help="What changed; the changed fields when not given.")] = None,
) -> None:
    """Raise a principle's version and note the change in its changelog; the rest of the file stays as it is."""
    from constitutional.constitution.bump import Part, file_with
    from constitutional.constitution.bump import bump as raise_version

    if major + minor + patch > 1:
        raise typer.BadParameter("give one of --major, --minor and --patch")
    part: Part = "major" if major else "patch" if patch else "minor"
    typer.echo(raise_version(constitution or str(file_with(principle)), principle, part, text))


def diff(
    old: Annotated[str, typer.Argument(help="FILE, FILE@REVISION (git) or a name.", metavar="OLD")],
    new: Annotated[str, typer.Argument(help="Likewise.", metavar="NEW")],
    as_json: AsJson = False,
) -> None:
    """Say principle by principle what changed between two constitutions."""
    from constitutional.constitution.diff import diff as difference_of
    from constitutional.constitution.diff import render
    from constitutional.constitution.revisions import open_constitution

    difference = difference_of(open_constitution(old).constitution, open_constitution(new).constitution)
    typer.echo(json.dumps(difference.model_dump(mode="json"), indent=2) if as_json else render(difference))


def import_file(
    path: Annotated[Path, typer.Argument(help="A constitution in another format.", metavar="FILE")],
    format_name: Annotated[str, typer.Option("--format", help="The format; a wrong one lists them.")],
    few_shots: Annotated[Path | None, typer.Option(help="A file of few-shots to take in, too.")] = None,
    shots_format: ShotsFormat = None,
    out: Output = None,
) -> None:
    """Turn a constitution of another format into one of ours; what ours cannot hold is listed on stderr."""
    from constitutional.interop import BESIDE, add_few_shots, import_constitution, to_yaml

    imported = import_constitution(path, format_name)
    constitution, lost = imported.constitution, [*imported.lost]
    if few_shots is not None:
        constitution, more = add_few_shots(constitution, few_shots, shots_format or BESIDE.get(format_name, ""))
        lost += more
    give(to_yaml(constitution), lost, out)


def export_file(
    constitution: Name,
    format_name: Annotated[str, typer.Option("--format", help="The format; a wrong one lists them.")],
    original: Annotated[
        Path | None, typer.Option(help="The file it was imported from, to keep what else is in it.")
    ] = None,
    few_shots: Annotated[Path | None, typer.Option(help="Write its few-shots to this file, too.")] = None,
    shots_format: ShotsFormat = None,
    out: Output = None,
) -> None:
    """Turn a constitution into another format; what that cannot hold is listed on stderr."""
    from constitutional.constitution import load_constitution
    from constitutional.interop import BESIDE, export_constitution, write_few_shots

    loaded = load_constitution(constitution)
    if few_shots is not None:
        text, lost = write_few_shots(loaded, shots_format or BESIDE.get(format_name, ""))
        give(text, lost, few_shots)
        loaded = loaded.model_copy(update={"few_shots": None})  # these are told of
    exported = export_constitution(loaded, format_name, original=original)
    give(exported.text, exported.lost, out)


def give(text: str, lost: tuple[str, ...] | list[str], out: Path | None) -> None:
    """Prints a text, or writes it to a file, and says on stderr what it does not hold."""
    from constitutional.atomic import write_atomic

    if out is None:
        typer.echo(text, nl=not text.endswith("\n"))
    else:
        write_atomic(out, text)
        typer.echo(f"wrote {out}", err=True)
    for line in lost:
        typer.echo(f"not held: {line}", err=True)


def add(app: typer.Typer) -> None:
    """Adds the commands to the program."""
    for command in (schema, show, lint, lock, bump, diff):
        app.command()(command)
    app.command("import")(import_file)
    app.command("export")(export_file)
