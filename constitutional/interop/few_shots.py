"""Few-shots: worked examples that stand before a question (FORMATS.md 3 and 7), and the files that hold nothing else.

`cai-sl`: transcripts; `cai-rl`: labelled questions; `cai-cot`: transcripts with a `{}` for the request; `nemo`:
conversations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from constitutional.errors import ConfigError, ConstitutionError, nearest
from constitutional.interop.documents import read_source
from constitutional.interop.nodes import Node, elements, member, members, parse_json, text, to_json
from constitutional.interop.shots import FewShot, LabelledShot
from constitutional.records import Dialogue, Message, Role

CHAT: dict[str, Role] = {"system": "system", "user": "user", "assistant": "assistant"}
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
    items: Callable[[Node], Node] = lambda root: root
    wrap: Callable[[list[object]], object] = lambda items: items


FEW_SHOT_FORMATS = {
    "cai-sl": _Shots(str, text, lambda shot: shot),
    "cai-rl": _Shots(LabelledShot, _labelled, lambda shot: shot.model_dump(mode="json")),
    "cai-cot": _Shots(str, _slotted, lambda shot: {"prompt": shot}),
    "nemo": _Shots(
        tuple,
        lambda node: read_dialogue(node, NEMO),
        lambda shot: write_dialogue(shot, NEMO),
        lambda root: member(root, "samples"),
        lambda items: {"samples": items},
    ),
}


def _format(name: str) -> _Shots:
    if name not in FEW_SHOT_FORMATS:
        raise ConfigError(f"no few-shot format '{name}'{nearest(name, FEW_SHOT_FORMATS)}")
    return FEW_SHOT_FORMATS[name]
