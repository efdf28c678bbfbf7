"""What `constitutional render` prints."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping

import typer

from constitutional.backends.reading import Reader, Reading
from constitutional.errors import one_line
from constitutional.feedback.preview import Preview
from constitutional.records import Dialogue
from constitutional.templates import TemplatePack

OPEN, CLOSE = "⟦", "⟧"


def render_command(
    template: str,
    principle: str | None,
    constitution: str,
    templates: str | None,
    model: str | None,
    texts: Mapping[str, str],
) -> None:
    """Prints every question a template puts, as a model reads it; as plain messages when `model` is None."""
    from constitutional.backends.reading import open_reader
    from constitutional.constitution import load_constitution
    from constitutional.feedback.preview import preview
    from constitutional.templates import load_pack

    loaded = load_constitution(constitution)
    pack = load_pack(templates or loaded.template_pack)
    previews = preview(template, loaded, principle, pack=pack, texts=texts)
    reader = None if model is None else open_reader(model)
    about = [loaded.principle(principle).ref] if principle and template != "respond" else []
    fits = True
    for shown in previews:
        typer.echo(one_line(f"{shown.name}: {', '.join([*about, loaded.ref, f'templates {pack.ref}'])}"))
        typer.echo()
        if reader is None or model is None:
            typer.echo("\n".join(message_lines(shown.dialogue)))
        else:
            reading = reader.read(shown.dialogue)
            typer.echo(indented(marked(reading)))
            typer.echo()
            needed = room_needed(template, model)
            fits &= len(reading.ids) + needed <= reader.context
            typer.echo("\n".join(count_lines(reading, reader, needed, options_of(template, pack))))
        typer.echo("\n".join(placeholder_lines(shown)))
    if not fits:
        raise typer.Exit(1)


def marked(reading: Reading) -> str:
    """The text, control tokens in double brackets; where the text itself has such brackets, as their escapes."""
    return "".join(
        f"{OPEN}{visible(piece.text)}{CLOSE}" if piece.control else visible(piece.text) for piece in reading.pieces
    )


def visible(text: str) -> str:
    """The text with what a terminal would not show, or would obey, as escapes; line ends stay."""
    lines = (one_line(line).replace(OPEN, "\\u27e6").replace(CLOSE, "\\u27e7") for line in text.split("\n"))
    return "\n".join(lines)


def indented(text: str) -> str:
    """Every line two spaces in, so that no text can pass for a line of ours."""
    return textwrap.indent(text, "  ", lambda line: True)


def message_lines(dialogue: Dialogue) -> Iterator[str]:
    """The messages under their roles; the last one is open where the model goes on from it."""
    for index, message in enumerate(dialogue):
        is_open = index == len(dialogue) - 1 and message.role == "assistant"
        yield f"{message.role}{' (the model goes on from here)' if is_open else ''}:"
        yield indented(visible(message.content))


def room_needed(template: str, model: str) -> int:
    """Tokens a stage keeps free behind the question: for the text to be drawn, or for a judge's option."""
    from constitutional.backends.specs import default_sampling
    from constitutional.feedback.options import OPTION_TOKENS

    return OPTION_TOKENS if template in ("judge", "applies") else default_sampling(model).max_tokens


def options_of(template: str, pack: TemplatePack) -> tuple[str, ...]:
    """The continuations a judge chooses between; none where a text is drawn."""
    return {"judge": pack.options, "applies": pack.yes_no}.get(template, ())


def count_lines(reading: Reading, reader: Reader, needed: int, options: tuple[str, ...]) -> Iterator[str]:
    """How long it is, whether it fits, and what in it is not what it looks like."""
    left = reader.context - len(reading.ids)
    start, kept = f"{len(reading.ids)} tokens of {reader.context}", f"{needed} are kept for the answer"
    if left >= needed:
        yield f"{start}: room for {left}, {kept}"
    else:
        yield f"{start}: too long by {needed - left} tokens ({kept})"
        yield "nothing is cut: a run does not ask this question and counts the item as a failure"
    if options:
        told = " and ".join(f"'{one_line(option)}' ({reader.option_tokens(option)})" for option in options)
        yield f"the judge's options (tokens): {told}"
    for name, count in sorted(reading.lookalikes.items()):
        yield f"plain text that looks like a control token: {one_line(name)} ({count})"


def placeholder_lines(shown: Preview) -> list[str]:
    """Which slots were not given, and a blank line."""
    named = ", ".join(f"--{name}" for name in shown.placeholders)
    return [f"placeholders stand for what was not given: {named}", ""] if named else [""]
