"""The template pack a constitution is asked with."""

from __future__ import annotations

from pathlib import Path

from constitutional.constitution.compose import Composed
from constitutional.errors import ConfigError, ConstitutionError
from constitutional.resources import PACK_FILE
from constitutional.templates import TemplatePack, load_pack


def open_pack(composed: Composed, instead: str | None = None) -> TemplatePack:
    """The templates a constitution is asked with, its few-shots in them.

    A folder that the constitution names lies beside the file that names it, else in the working directory.

    Args:
        composed: the constitution.
        instead: a pack to take in the place of its own.

    Raises:
        ConfigError: no such pack, with the nearest name.
        ConstitutionError: the same of the constitution's own, with the place that names it.
        TemplateError: `file:line: message` for whatever is wrong in it.
    """
    few_shots = composed.constitution.few_shots
    if instead is not None:
        return load_pack(instead).with_few_shots(few_shots)
    name, place = composed.constitution.template_pack, composed.marks.get(("template_pack",), str(composed.path))
    beside = Path(place.rsplit(":", 2)[0]).parent / name
    try:
        return load_pack(str(beside) if (beside / PACK_FILE).is_file() else name).with_few_shots(few_shots)
    except ConfigError as error:
        raise ConstitutionError(f"{place}: template_pack: {error}") from error
