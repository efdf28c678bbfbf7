"""Markdown as the OpenAI Model Spec writes it, cut into sections, prose, commentary and example blocks.

Only lines outside fenced blocks are looked at, and only `\\n` ends a line: every byte is in exactly one part.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass

_HEADING = re.compile(r"(#{1,6}) +(.*?)(?: +\{#([^\s}]+)([^}]*)\})?\s*")
_ATTRIBUTE = re.compile(r"(\w+)=(\S+)")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_COMMENTARY = "!!! meta"
_CAPTION = "**Example**"


@dataclass(frozen=True)
class Section:
    """A heading `## Title {#id key=value}` and what stands under it, to the next heading of any level."""

    line: int
    level: int
    title: str
    id: str | None
    attributes: dict[str, str]
    raw: str
    body: str


@dataclass(frozen=True)
class Body:
    """What is in a section: prose, its bytes kept but for the blocks taken out, and those blocks."""

    prose: str
    examples: tuple[str, ...]
    commentary: tuple[str, ...]


def sections(text: str) -> tuple[str, list[Section]]:
    """The text before the first heading, and the sections."""
    lines = _lines(text)
    heads = [index for index in _outside(lines) if _HEADING.fullmatch(lines[index])]
    found = []
    for start, end in itertools.pairwise([*heads, len(lines)]):
        heading = _HEADING.fullmatch(lines[start])
        assert heading is not None
        attributes = dict(_ATTRIBUTE.findall(heading[4] or ""))
        raw, body = "".join(lines[start:end]), "".join(lines[start + 1 : end])
        found.append(Section(start + 1, len(heading[1]), heading[2], heading[3], attributes, raw, body))
    return "".join(lines[: heads[0]] if heads else lines), found


def parts(body: str) -> Body:
    """A section's prose, examples (fenced blocks with a `<comparison>`, and their captions) and commentary."""
    lines = _lines(body)
    prose: list[str] = []
    examples: list[str] = []
    commentary: list[str] = []
    index = 0
    while index < len(lines):
        start = index
        if lines[index].startswith(_COMMENTARY):
            index = _skip(lines, index + 1, lambda line: not line.strip() or line.startswith(("    ", "\t")))
            commentary.append("".join(lines[start:index]))
            continue
        fence = index
        if lines[index].startswith(_CAPTION):
            fence = _skip(lines, index, lambda line: bool(line.strip()))
            fence = _skip(lines, fence, _blank)
        end = _fence_end(lines, fence)
        if end is not None and any(line.startswith("<comparison>") for line in lines[fence:end]):
            examples.append("".join(lines[fence + 1 : end - 1]))
            index = _skip(lines, end, _blank)
            continue
        index = _fence_end(lines, index) or index + 1
        prose += lines[start:index]
    return Body("".join(prose).strip("\r\n"), tuple(examples), tuple(commentary))


def _lines(text: str) -> list[str]:
    """Lines with their ends; `splitlines` would also cut at form feeds and the like."""
    return re.findall(r"[^\n]*\n|[^\n]+\Z", text)


def _outside(lines: list[str]) -> list[int]:
    """Indexes of the lines that are in no fenced block."""
    found = []
    index = 0
    while index < len(lines):
        end = _fence_end(lines, index)
        if end is None:
            found.append(index)
        index = end or index + 1
    return found


def _fence_end(lines: list[str], index: int) -> int | None:
    """The index after the fenced block that begins at `index` (the end of the text where it is never closed)."""
    opening = _FENCE.match(lines[index]) if index < len(lines) else None
    if opening is None:
        return None
    for end in range(index + 1, len(lines)):
        closing = _FENCE.match(lines[end])
        if closing and closing[1].startswith(opening[1]) and not lines[end][closing.end() :].strip():
            return end + 1
    return len(lines)


def _skip(lines: list[str], index: int, while_true: Callable[[str], bool]) -> int:
    while index < len(lines) and while_true(lines[index]):
        index += 1
    return index


def _blank(line: str) -> bool:
    return not line.strip()
