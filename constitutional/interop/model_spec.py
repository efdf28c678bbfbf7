"""The OpenAI Model Spec (github.com/openai/model_spec, Markdown), FORMATS.md 12.

A section with an authority level is a principle, and the level its tier: root 1, system 2, developer 3, user 4,
guideline 5. Its prose is a rule, put as a question to a judge; its examples, which the gate asks about, are taken out
of the prose, and so is the commentary, which is not meant for the model.
"""

from __future__ import annotations

import re

from constitutional.errors import ConstitutionError, nearest, one_line
from constitutional.interop.comparisons import read_block, write_block
from constitutional.interop.documents import (
    Imported,
    Source,
    Written,
    asked_as,
    constitution_of,
    fitting,
    principle_of,
)
from constitutional.interop.markdown import Section, parts, sections
from constitutional.interop.names import slug
from constitutional.interop.traits import RULE
from constitutional.principles import Constitution, Principle

AUTHORITY = {"root": 1, "system": 2, "developer": 3, "user": 4, "guideline": 5}


def read(source: Source) -> Imported:
    """A Model Spec."""
    _, found = sections(source.text)
    ruling = [section for section in found if "authority" in section.attributes]
    principles = [_principle(section, source.name) for section in ruling]
    first: dict[str, int] = {}
    for principle, section in zip(principles, ruling, strict=True):
        if principle.id in first:
            line = first[principle.id]
            raise _wrong(section, source.name, f"duplicate id '{principle.id}' (first at line {line})")
        first[principle.id] = section.line
    return Imported(constitution_of(source, principles), lost=tuple(_lost(found, ruling)))


def write(constitution: Constitution, original: Source | None) -> Written:
    """A Markdown file of sections. With an original, all of it stays but the sections of principles that changed."""
    preamble, found = sections(original.text) if original else ("", [])
    before = {
        section.id: (section, _principle(section, original.name))
        for section in found
        if original and "authority" in section.attributes
    }
    same = {id for id, (_, principle) in before.items() if principle in constitution.principles}
    chosen, left_out = fitting(constitution, lambda p: None if p.id in same else _problem(p))
    new = {p.id: _render(p, before[p.id][0].level if p.id in before else 2) for p in chosen if p.id not in same}
    chosen.sort(key=lambda p: list(before).index(p.id) if p.id in before else len(before))
    text = preamble
    for section in found:
        if section.id not in before or section.id in same:
            text += section.raw
        elif section.id in new:
            text += new.pop(section.id) + "\n"
    apart = "" if not text or text.endswith("\n\n") else "\n" if text.endswith("\n") else "\n\n"
    return Written(text + (apart + "\n".join(new.values()) if new else ""), tuple(chosen), left_out)


def _principle(section: Section, file: str) -> Principle:
    level = section.attributes["authority"]
    if level not in AUTHORITY:
        raise _wrong(section, file, f"unknown authority '{level}'{nearest(level, AUTHORITY)}")
    if section.id is None or slug(section.id) != section.id:
        raise _wrong(section, file, f"id '{section.id}' is not of lower-case letters, digits, '_' and '-'")
    body = parts(section.body)
    if not body.prose:
        raise _wrong(section, file, f"section '{section.id}' has no text")
    return principle_of(
        section.id,
        section.title,
        comparison_request=RULE + body.prose,
        tier=AUTHORITY[level],
        tags=tuple(filter(None, section.attributes.get("tags", "").split(","))),
        examples=tuple(example for block in body.examples for example in read_block(block)),
    )


def _lost(found: list[Section], ruling: list[Section]) -> list[str]:
    bodies = [parts(section.body) for section in ruling]
    blocks = [read_block(block) for body in bodies for block in body.examples]
    commentary = sum(len(body.commentary) for body in bodies)
    others = [section.title for section in found if "authority" not in section.attributes]
    attributes = sorted({key for section in ruling for key in section.attributes} - {"authority", "tags"})
    return [
        *([f"{len(others)} sections without authority: {', '.join(others)}"] if others else []),
        *([f"{commentary} blocks of commentary"] if commentary else []),
        *([f"captions, notes, places and OK answers of {len(blocks)} example blocks"] if blocks else []),
        *(
            [f"{number} example blocks that are no single user turn with a good and a bad answer"]
            if (number := sum(not block for block in blocks))
            else []
        ),
        *(f"attribute '{name}' of headings" for name in attributes),
    ]


def _problem(principle: Principle) -> str | None:
    """Why a principle would not come back from the section it is written as."""
    reason = asked_as(RULE)(principle)
    if reason is not None:
        return reason
    _, found = sections(_render(principle, 2) + "\n# After it\n")  # an open fence would swallow what follows
    prose = [parts(section.body).prose for section in found]
    if prose != [(principle.comparison_request or "").removeprefix(RULE), ""]:
        return "its text holds Markdown that would read as a heading, an example or commentary"
    return None


def _render(principle: Principle, level: int) -> str:
    names = {tier: name for name, tier in AUTHORITY.items()}
    title = " ".join(principle.title.split()).replace("{", "(").replace("}", ")") or principle.id
    tags = ",".join(tag for tag in principle.tags if re.fullmatch(r"[\w.-]+", tag))
    attributes = f"#{principle.id} authority={names.get(principle.tier, 'guideline')}" + (
        f" tags={tags}" if tags else ""
    )
    text = f"{'#' * level} {title} {{{attributes}}}\n\n"
    text += f"{(principle.comparison_request or '').removeprefix(RULE)}\n"
    blocks = [block for example in principle.examples if (block := write_block(example))]
    return text + "".join(f"\n**Example**: {n}\n\n~~~xml\n{block}~~~\n" for n, block in enumerate(blocks, 1))


def _wrong(section: Section, file: str, message: str) -> ConstitutionError:
    return ConstitutionError(one_line(f"{file}:{section.line}: {message}"))
