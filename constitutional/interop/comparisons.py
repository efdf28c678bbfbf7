"""The Model Spec's example blocks: a conversation, then answers marked GOOD or BAD, as examples of a principle.

An example is one prompt and two answers. A block fits if its conversation is one user turn; each good answer is paired
with each bad one. Blocks with other turns, tool calls, or no answer of one of the two kinds do not fit.
"""

from __future__ import annotations

import itertools
import re

from constitutional.principles import Example

_TURN = re.compile(
    r"<(system|developer|user|assistant|tool)\b([^>\n]*)>([^\n]*)\n(?:(.*?)\n)??</\1>[ \t\r]*(?:\n\s*|\Z)", re.DOTALL
)
_NOTE = re.compile(r"\s*<!-- *(GOOD|BAD|OK)\b.*?-->\s*")


def read_block(block: str) -> tuple[Example, ...]:
    """The examples of a block; none if it does not fit."""
    head, opening, rest = block.partition("<comparison>\n")
    body, closing, tail = rest.partition("</comparison>")
    asked, answers = _turns(head), _turns(body)
    if not (opening and closing) or tail.strip() or asked is None or answers is None:
        return ()
    if len(asked) != 1 or asked[0][0] != "user" or asked[0][2].strip():
        return ()
    marked: dict[str, list[str]] = {"GOOD": [], "BAD": [], "OK": []}
    for role, attributes, note, text in answers:
        label = _NOTE.fullmatch(note)
        if role != "assistant" or attributes.strip() or label is None:
            return ()
        marked[label[1]].append(text)
    prompt = asked[0][3]
    pairs = itertools.product(marked["GOOD"], marked["BAD"])
    return tuple(Example(prompt=prompt, better=b, worse=w) for b, w in pairs if _usable(prompt, b, w))


def write_block(example: Example) -> str | None:
    """A block that reads back as the example; None if its texts hold what ends a turn or the fence."""
    block = (
        f"<user>\n{example.prompt}\n</user>\n<comparison>\n"
        f"<assistant> <!-- GOOD -->\n{example.better}\n</assistant>\n"
        f"<assistant> <!-- BAD -->\n{example.worse}\n</assistant>\n</comparison>\n"
    )
    same = Example(prompt=example.prompt, better=example.better, worse=example.worse)
    return block if "~~~" not in block and read_block(block) == (same,) else None


def _turns(text: str) -> list[tuple[str, str, str, str]] | None:
    """Each turn's role, attributes, rest of the opening line and text; None if there is anything between the turns."""
    found: list[tuple[str, str, str, str]] = []
    place = 0
    while place < len(text):
        turn = _TURN.match(text, place)
        if turn is None:
            return found if not text[place:].strip() else None
        found.append((turn[1], turn[2], turn[3], turn[4] or ""))
        place = turn.end()
    return found


def _usable(prompt: str, better: str, worse: str) -> bool:
    """What a constitution asks of an example."""
    return bool(prompt.strip() and better.strip() and worse.strip()) and better.strip() != worse.strip()
