"""What `constitutional render` prints."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import typer

from constitutional.backends.reading import Reader, Reading
from constitutional.errors import ConfigError, one_line
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
    max_tokens: int | None = None,
) -> None:
    """Prints every question a template puts, as a model reads it; as plain messages when `model` is None.

    `max_tokens` is what a recipe lets the answer have; the model's default when None.
    """
    from constitutional.backends.reading import open_reader
    from constitutional.constitution import load_composed
    from constitutional.constitution.packs import open_pack
    from constitutional.feedback.preview import preview

    kept = None if model is None else room_needed(template, model, max_tokens)
    if kept is None and max_tokens is not None:
        raise ConfigError("--plain counts no tokens: it takes no --max-tokens")
    composed = load_composed(constitution)
    loaded, pack = composed.constitution, open_pack(composed, templates)
    previews = preview(template, loaded, principle, pack=pack, texts=texts)
    reader = None if model is None else open_reader(model)
    about = [loaded.principle(principle).ref] if principle and template != "respond" else []
    fits = True
    for shown in previews:
        typer.echo(one_line(f"{shown.name}: {', '.join([*about, loaded.ref, f'templates {pack.ref}'])}"))
        typer.echo()
        if reader is None or kept is None:
            typer.echo("\n".join(message_lines(shown.dialogue)))
        else:
            reading = reader.read(shown.dialogue)
            typer.echo(indented(marked(reading)))
            typer.echo()
            fits &= len(reading.ids) + kept.tokens <= reader.context
            typer.echo("\n".join(count_lines(reading, reader, kept, options_of(template, pack))))
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


@dataclass(frozen=True)
class Kept:
    """Tokens a stage keeps free behind the question, and where the number comes from."""

    tokens: int
    source: str


def room_needed(template: str, model: str, max_tokens: int | None = None) -> Kept:
    """What is kept for the text to be drawn, or for a judge's option.

    Raises:
        ConfigError: `max_tokens` for a template that draws no text, or an unknown model.
    """
    from constitutional.backends.specs import default_sampling
    from constitutional.feedback.options import OPTION_TOKENS

    if template in ("judge", "applies", "score"):
        if max_tokens is not None:
            raise ConfigError(f"'{template}' chooses between options and draws no text: it takes no --max-tokens")
        return Kept(OPTION_TOKENS, "as for every option of a judge")
    if max_tokens is not None:
        return Kept(max_tokens, "by --max-tokens")
    default = default_sampling(model).max_tokens
    return Kept(default, f"the default of {one_line(model)}: where a recipe sets max_tokens, give --max-tokens")


def options_of(template: str, pack: TemplatePack) -> tuple[str, ...]:
    """The continuations a judge chooses between; none where a text is drawn."""
    known: dict[str, tuple[str, ...]] = {"judge": pack.options, "applies": pack.yes_no, "score": pack.grades}
    return known.get(template, ())


def count_lines(reading: Reading, reader: Reader, kept: Kept, options: tuple[str, ...]) -> Iterator[str]:
    """How long it is, whether it fits, and what in it is not what it looks like."""
    left = reader.context - len(reading.ids)
    start = f"{len(reading.ids)} tokens of {reader.context}"
    told = f"{kept.tokens} are kept for the answer ({kept.source})"
    if left >= kept.tokens:
        yield f"{start}: room for {left}, {told}"
    else:
        yield f"{start}: too long by {kept.tokens - left} tokens, {told}"
        yield "nothing is cut: a run does not ask this question and counts the item as a failure"
    if options:
        named = " and ".join(f"'{one_line(option)}' ({reader.option_tokens(option)})" for option in options)
        yield f"the judge's options (tokens): {named}"
    for name, count in sorted(reading.lookalikes.items()):
        yield f"plain text that looks like a control token: {one_line(name)} ({count})"


def placeholder_lines(shown: Preview) -> list[str]:
    """Which slots were not given, and a blank line."""
    named = ", ".join(f"--{name}" for name in shown.placeholders)
    return [f"placeholders stand for what was not given: {named}", ""] if named else [""]
