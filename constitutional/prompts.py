"""Prompts and human preference pairs, read from the forms they are published in.

A row is `prompt` (a text, or a list of messages), `messages` (a list of `{role, content}`), or an hh-rlhf row
`{chosen, rejected}` whose texts share a `\\n\\nHuman: … \\n\\nAssistant:` conversation. `messages` goes before `prompt`
where both stand, since it keeps the context. The order of the file is kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, get_args

from constitutional.errors import DataError, nearest
from constitutional.records import Dialogue, Message, Prompt, PromptKind, Record, Role, Split, user
from constitutional.rows import Row, read_rows

_ASSISTANT = "\n\nAssistant:"
_TURN = re.compile(r"\n\n(Human|Assistant):")
_ROLES: tuple[Role, ...] = get_args(Role)
_SPLITS: tuple[Split, ...] = get_args(Split)


class HumanPair(Record):
    """Two answers to one conversation and which of them a person preferred.

    Flags: `prompt_mismatch` (the two hh-rlhf texts do not share their whole conversation: the shared part is kept and
    the rest of each stands in the answer; where nothing is shared, the conversation is the chosen text's),
    `empty_chosen`, `empty_rejected`, `same_answers`.
    """

    messages: Dialogue
    chosen: str
    rejected: str
    flags: tuple[str, ...] = ()


def load_prompts(
    path_or_hub_id: str, kind: PromptKind, *, split: Split | None = None, limit: int | None = None
) -> list[Prompt]:
    """Reads prompts; a conversation that occurs again is kept once, where it stood first.

    Args:
        path_or_hub_id: .jsonl, .jsonl.gz or .json file, or a hub data set (its `test` split for `heldout`).
        kind: what the prompts are.
        split: for rows that name none; `train` when None.
        limit: how many different prompts to read.

    Returns:
        Conversations that end with a user turn (assistant turns after it are cut off).

    Raises:
        DataError: `file:line: message` for the first thing wrong; a file without rows.
    """
    rows = read_rows(path_or_hub_id, hub_split="test" if split == "heldout" else "train")
    source = Path(path_or_hub_id).name if Path(path_or_hub_id).exists() else path_or_hub_id
    found: dict[Dialogue, Prompt] = {}
    for place, row in rows:
        messages = _until_user(_conversation(row, place), place)
        if messages not in found:
            found[messages] = Prompt(
                messages=messages, kind=kind, source=source, split=_split(row, split, place), tags=tags_of(row, place)
            )
        if limit is not None and len(found) >= limit:
            break
    return list(found.values())


def load_pairs(path_or_hub_id: str, limit: int | None = None) -> list[HumanPair]:
    """Reads preference rows, hh-rlhf `{chosen, rejected}` or `{prompt, chosen, rejected}`; odd ones are flagged.

    Args:
        path_or_hub_id: as for `load_prompts` (of a hub data set, its `train` split).
        limit: how many rows to read.

    Raises:
        DataError: `file:line: message` for the first thing wrong; a file without rows.
    """
    return [pair_of(row, place) for place, row in islice(read_rows(path_or_hub_id), limit)]


def _conversation(row: Row, place: str) -> Dialogue:
    for key in ("messages", "prompt"):
        if row.get(key) is not None:
            return _messages(row[key], f"{place}: {key}")
    if {"chosen", "rejected"} <= row.keys():
        return pair_of(row, place).messages
    expected = ("prompt", "messages", "chosen")
    hint = next((nearest(key, expected) for key in row if "did you mean" in nearest(key, expected)), "")
    raise DataError(f"{place}: a row needs 'prompt', 'messages', or 'chosen' and 'rejected'{hint}")


def _messages(value: Any, place: str) -> Dialogue:
    if isinstance(value, str):
        return (user(value),)
    if not isinstance(value, list) or not value:
        raise DataError(f"{place}: expected a text or a list of messages")
    return tuple(_message(item, f"{place}.{index}") for index, item in enumerate(value))


def _message(item: Any, place: str) -> Message:
    if not isinstance(item, dict) or not isinstance(item.get("content"), str):
        raise DataError(f"{place}: a message needs 'role' and 'content', both texts")
    for role in _ROLES:
        if item.get("role") == role:
            return Message(role=role, content=item["content"])
    raise DataError(f"{place}: unknown role '{item.get('role')}'{nearest(str(item.get('role')), _ROLES)}")


def _until_user(messages: Dialogue, place: str) -> Dialogue:
    while messages and messages[-1].role == "assistant":
        messages = messages[:-1]
    if not messages or messages[-1].role != "user":
        raise DataError(f"{place}: no user turn to answer")
    if not messages[-1].content.strip():
        raise DataError(f"{place}: empty prompt")
    return messages


def _split(row: Row, given: Split | None, place: str) -> Split:
    name = row.get("split")
    if name is None:
        return given or "train"
    for split in _SPLITS:
        if name == split:
            return split
    raise DataError(f"{place}: unknown split '{name}'{nearest(str(name), _SPLITS)}")


def tags_of(row: Row, place: str) -> tuple[str, ...]:
    """A row's `tags`. Raises DataError where they are no list of texts."""
    tags = row.get("tags") or []
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise DataError(f"{place}: 'tags' must be a list of texts")
    return tuple(tags)


def pair_of(row: Row, place: str) -> HumanPair:
    """The pair in one row: hh-rlhf texts, `prompt` with two texts, or TRL's messages, with or without a `prompt`.

    Raises:
        DataError: it is none of these; begins with `place`.
    """
    flags: list[str] = []
    if isinstance(row.get("chosen"), list) and isinstance(row.get("rejected"), list):
        messages, chosen, rejected = _conversational(row, place)
    else:
        chosen, rejected = _answer(row, "chosen", place), _answer(row, "rejected", place)
        if row.get("prompt") is not None:
            messages = _until_user(_messages(row["prompt"], f"{place}: prompt"), place)
        else:
            messages, chosen, rejected, shared = _hh_pair(chosen, rejected, place)
            flags += [] if shared else ["prompt_mismatch"]
    flags += [f"empty_{side}" for side, text in (("chosen", chosen), ("rejected", rejected)) if not text]
    flags += ["same_answers"] if chosen == rejected else []
    return HumanPair(messages=messages, chosen=chosen, rejected=rejected, flags=tuple(flags))


def _conversational(row: Row, place: str) -> tuple[Dialogue, str, str]:
    """TRL's messages: whole conversations that share all but the last turn, or what follows `prompt`."""
    chosen, rejected = (_messages(row[key], f"{place}: {key}") for key in ("chosen", "rejected"))
    shared = 0
    while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
        shared += 1
    before = chosen[:shared]
    if not shared:
        if row.get("prompt") is None:
            raise DataError(f"{place}: no 'prompt', and 'chosen' and 'rejected' share no turn")
        before = _messages(row["prompt"], f"{place}: prompt")
    for key, turns in (("chosen", chosen[shared:]), ("rejected", rejected[shared:])):
        if len(turns) != 1 or turns[0].role != "assistant":
            raise DataError(f"{place}: {key}: expected one assistant turn after the conversation (got {len(turns)})")
    if _until_user(before, place) != before:
        raise DataError(f"{place}: the conversation does not end with a user turn")
    return before, chosen[-1].content, rejected[-1].content


def _answer(row: Row, key: str, place: str) -> str:
    value = row.get(key)
    if not isinstance(value, str):
        raise DataError(f"{place}: '{key}' must be a text or a list of messages")
    return value


def _hh_pair(chosen: str, rejected: str, place: str) -> tuple[Dialogue, str, str, bool]:
    """The conversation (common prefix up to its last "Assistant:"), both answers, and whether all else is shared."""
    length = next((i for i, (x, y) in enumerate(zip(chosen, rejected, strict=False)) if x != y), None)
    common = chosen[:length] if length is not None else min(chosen, rejected, key=len)
    cut = common.rfind(_ASSISTANT)
    cuts = (cut, cut) if cut >= 0 else (chosen.rfind(_ASSISTANT), rejected.rfind(_ASSISTANT))
    if min(cuts) < 0:
        raise DataError(f"{place}: no 'prompt', and 'chosen' or 'rejected' has no 'Assistant:' turn")
    answers = [text[at + len(_ASSISTANT) :] for text, at in zip((chosen, rejected), cuts, strict=True)]
    messages = _until_user(tuple(_turns(chosen[: cuts[0]], place)), place)
    shared = cut >= 0 and not any(_TURN.search(answer) for answer in answers)
    return messages, answers[0].strip(), answers[1].strip(), shared


def transcript_turns(text: str, place: str) -> Dialogue:
    """The conversation in a text of `Human:` and `Assistant:` turns, up to its last user turn. Raises DataError."""
    return _until_user(tuple(_turns(text.removesuffix(_ASSISTANT), place)), place)


def _turns(text: str, place: str) -> Iterator[Message]:
    before, *parts = _TURN.split(text)
    if before.strip():
        raise DataError(f"{place}: text before the first 'Human:' turn")
    for name, content in zip(parts[::2], parts[1::2], strict=True):
        yield Message(role="user" if name == "Human" else "assistant", content=content.strip())
