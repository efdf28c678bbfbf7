"""The formats by name, and the two functions that use them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from constitutional.errors import ConfigError, nearest, one_line
from constitutional.interop import constitutional_evals, icai, langchain, llm_swarm, model_spec, nemo, paper, traits
from constitutional.interop.documents import Imported, Source, Written, read_source
from constitutional.interop.losses import not_held
from constitutional.principles import Constitution

Read = Callable[[Source], Imported]
Write = Callable[[Constitution, Source | None], Written]

FORMATS: dict[str, tuple[Read, Write | None]] = {
    "annotated-pairs": (icai.read_annotated_pairs, None),  # principles without votes are no file of votes
    "cai-rl": (paper.read_rl, paper.write_rl),
    "cai-sl": (paper.read_sl, paper.write_sl),
    "constitutional-evals": (constitutional_evals.read, constitutional_evals.write),
    "icai": (icai.read_standard, icai.write_standard),
    "langchain": (langchain.read, langchain.write),
    "llm-swarm": (llm_swarm.read, llm_swarm.write),
    "model-spec": (model_spec.read, model_spec.write),
    "nemo-prompt": (nemo.read, nemo.write),
    "nemo-sl": (paper.read_sl, paper.write_sl),  # NeMo-Aligner ships the paper's file
    "open-character": (traits.read_open_character, traits.write_open_character),
    "typo": (traits.read_typo, traits.write_typo),
}


@dataclass(frozen=True)
class Exported:
    """A constitution in some format. `lost` says, a line each, what of the constitution the text does not hold."""

    text: str
    lost: tuple[str, ...]


def import_constitution(path: Path, format: str) -> Imported:
    """Reads a constitution of another format, texts byte for byte.

    Args:
        path: the file. Its name becomes the constitution's where the format has none.
        format: a name in `FORMATS`.

    Raises:
        ConfigError: no such format.
        ConstitutionError: one line `file: path.to.the.value: message`, or `file:line: message`.
    """
    read, _ = _format(format)
    imported = read(read_source(path))
    return replace(imported, lost=tuple(map(one_line, imported.lost)))


def export_constitution(constitution: Constitution, format: str, *, original: Path | None = None) -> Exported:
    """Writes a constitution in another format.

    Args:
        constitution: what to write.
        format: a name in `FORMATS`.
        original: the file the constitution was imported from: what it holds beyond a constitution is kept.

    Raises:
        ConfigError: no such format, or one that can only be imported.
        ConstitutionError: the format has a form for none of the principles, or the original is of another format.
    """
    read, write = _format(format)
    if write is None:
        raise ConfigError(f"format '{format}' can be imported, not exported")
    before = read_source(original) if original else None
    if before:
        read(before)  # says what is wrong with it; the writers rely on it
    written = write(constitution, before)
    again = read(Source(f"{constitution.id}.out", written.text))
    lost = not_held(constitution, written, again.constitution)
    return Exported(written.text, tuple(map(one_line, lost)))


def _format(name: str) -> tuple[Read, Write | None]:
    if name not in FORMATS:
        raise ConfigError(f"no format '{name}'{nearest(name, FORMATS)}")
    return FORMATS[name]
