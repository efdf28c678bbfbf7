"""Few-shots: worked examples that stand before a question (FORMATS.md 3 and 7), and the files that hold nothing else.

`cai-sl`: transcripts; `cai-rl`: labelled questions; `cai-cot`: transcripts with a `{}` for the request; `nemo`:
conversations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from constitutional.errors import ConfigError, ConstitutionError, nearest, one_line
from constitutional.few_shots import NO_SHOTS, FewShots
from constitutional.interop.documents import read_source
from constitutional.interop.nodes import Node, elements, member, members, parse_json, text, to_json
from constitutional.interop.shot_conversion import as_conversations, as_labelled, as_transcripts, held
from constitutional.interop.shots import FewShot, LabelledShot
from constitutional.principles import Constitution
from constitutional.records import Dialogue, Message, Role

CHAT: dict[str, Role] = {"system": "system", "user": "user", "assistant": "assistant"}
BESIDE = {"cai-sl": "cai-sl", "cai-rl": "cai-rl", "nemo-sl": "nemo"}
"""The format of the few-shots that a project keeps beside its constitution, by the constitution's format."""

NEMO: dict[str, Role] = {"System": "system", "User": "user", "Assistant": "assistant"}


def import_few_shots(path: Path, format: str) -> tuple[FewShot, ...]:
    """Reads a file of few-shots, texts byte for byte.

    Args:
        path: the file.
        format: a name in `FEW_SHOT_FORMATS`.

    Raises:
        ConfigError: no such format.
        ConstitutionError: one line `file: path.to.the.value: message`.
    """
    shots = _format(format)
    root = parse_json(read_source(path))
    return tuple(shots.read(item) for item in elements(shots.items(root)))


def export_few_shots(few_shots: Sequence[FewShot], format: str) -> str:
    """Few-shots as a file of the format.

    Raises:
        ConfigError: no such format.
        ConstitutionError: one of them is of another kind than the format holds.
    """
    shots = _format(format)
    for index, shot in enumerate(few_shots):
        if not isinstance(shot, shots.kind):
            raise ConstitutionError(f"few-shot {index}: format '{format}' holds no {type(shot).__name__}")
    return to_json(shots.wrap([shots.write(shot) for shot in few_shots]))


def add_few_shots(constitution: Constitution, path: Path, format: str) -> tuple[Constitution, list[str]]:
    """A constitution with the few-shots of a file, in place of its own of that kind, and a line for each not held.

    Raises:
        ConfigError, ConstitutionError: as `import_few_shots`.
    """
    few_shots, lost = held(import_few_shots(path, format))
    given = (constitution.few_shots or NO_SHOTS).under(few_shots)
    lost = [f"{one_line(str(path))}: {line}" for line in lost]
    return constitution.model_copy(update={"few_shots": given if given.texts() else None}), lost


def write_few_shots(constitution: Constitution, format: str) -> tuple[str, list[str]]:
    """The few-shots of a constitution as a file of the format, and a line for each it has no form for.

    Raises:
        ConfigError: no such format, or one that holds nothing a constitution has.
    """
    write = _format(format).form
    if write is None:
        raise ConfigError(f"few-shot format '{format}' holds nothing that a constitution's few-shots say")
    shots, lost = write(constitution.few_shots or NO_SHOTS)
    return export_few_shots(shots, format), lost


def read_dialogue(node: Node, roles: dict[str, Role]) -> Dialogue:
    """A conversation from a list of `{role, content}`."""
    return tuple(_message(item, roles) for item in elements(node))


def write_dialogue(dialogue: Dialogue, roles: dict[str, Role]) -> list[dict[str, str]]:
    """The opposite of `read_dialogue`."""
    names = {role: name for name, role in roles.items()}
    return [{"role": names[message.role], "content": message.content} for message in dialogue]


def _message(node: Node, roles: dict[str, Role]) -> Message:
    _only(node, "role", "content")
    role = member(node, "role")
    if role.value not in list(roles):
        raise role.wrong(f"expected one of {', '.join(roles)}")
    content = member(node, "content")
    if not isinstance(content.value, str):
        raise content.wrong("expected a text")
    return Message(role=roles[role.value], content=content.value)


def _labelled(node: Node) -> LabelledShot:
    _only(node, "prompt", "corrects", "incorrects")
    corrects, incorrects = (
        tuple(text(item) for item in elements(member(node, key))) for key in ("corrects", "incorrects")
    )
    return LabelledShot(prompt=text(member(node, "prompt")), corrects=corrects, incorrects=incorrects)


def _slotted(node: Node) -> str:
    _only(node, "prompt")
    prompt = member(node, "prompt")
    if text(prompt).count("{}") != 1:
        raise prompt.wrong("expected one '{}', where the request goes")
    return text(prompt)


def _only(node: Node, *keys: str) -> None:
    """A few-shot has no place for other keys, and dropping one would not be seen."""
    for key in members(node):
        if key not in keys:
            raise node.wrong(f"unknown key '{key}'{nearest(key, keys)}")


@dataclass(frozen=True)
class _Shots:
    kind: type
    read: Callable[[Node], FewShot]
    write: Callable[[Any], object]
    form: Callable[[FewShots], tuple[tuple[FewShot, ...], list[str]]] | None = None
    """A constitution's few-shots in this format; None: it has no form for them."""
    items: Callable[[Node], Node] = lambda root: root
    wrap: Callable[[list[object]], object] = lambda items: items


FEW_SHOT_FORMATS = {
    "cai-sl": _Shots(str, text, lambda shot: shot, as_transcripts),
    "cai-rl": _Shots(LabelledShot, _labelled, lambda shot: shot.model_dump(mode="json"), as_labelled),
    "cai-cot": _Shots(str, _slotted, lambda shot: {"prompt": shot}),
    "nemo": _Shots(
        tuple,
        lambda node: read_dialogue(node, NEMO),
        lambda shot: write_dialogue(shot, NEMO),
        as_conversations,
        lambda root: member(root, "samples"),
        lambda items: {"samples": items},
    ),
}


def _format(name: str) -> _Shots:
    if name not in FEW_SHOT_FORMATS:
        raise ConfigError(f"no few-shot format '{name}'{nearest(name, FEW_SHOT_FORMATS)}")
    return FEW_SHOT_FORMATS[name]
