"""Principles of Inverse Constitutional AI and Feedback Forensics (github.com/rdnfn), FORMATS.md 9.

`icai`: the standard principles, versions of lists of groups `{info, principles_short_version}`. A principle's tag is
its version's key, its source the group's `info`. `annotated-pairs`: the principle annotators of a file of votes.
"""

from __future__ import annotations

import itertools
from typing import Any

from constitutional.interop.documents import Imported, Source, Written, asked_as, constitution_of, fitting, principle_of
from constitutional.interop.names import ids_of
from constitutional.interop.nodes import elements, member, members, other_keys, parse_json, text, to_json
from constitutional.principles import Constitution, Principle

REQUEST = "Select the response that "
"""What ICAI itself puts before a short version."""
VERSION_KEY = "_PRINCIPLES_DATA_V"


def read_standard(source: Source) -> Imported:
    """All versions of a file of standard principles; a principle in two versions is two principles here."""
    found = []
    root = parse_json(source)
    for version in members(root):
        if not version.startswith(VERSION_KEY):
            raise root.wrong(f"unknown key '{version}' (expected {VERSION_KEY}1 and on)")
    groups = [(version, group) for version, node in members(root).items() for group in elements(node)]
    for version, group in groups:
        info = text(member(group, "info"))
        shorts = elements(member(group, "principles_short_version"))
        if not shorts:
            raise group.wrong("a group without principles")
        found += [(version, info, text(short)) for short in shorts]
    principles = [
        principle_of(id, short, comparison_request=REQUEST + short, tags=(version,), source=info)
        for id, (version, info, short) in zip(ids_of(short for *_, short in found), found, strict=True)
    ]
    lost = other_keys([group for _, group in groups], ("info", "principles_short_version"), "groups")
    return Imported(constitution_of(source, principles), lost=tuple(lost))


def write_standard(constitution: Constitution, original: Source | None) -> Written:
    """A file of standard principles: neighbours with one tag and source are a group."""
    chosen, left_out = fitting(constitution, asked_as(REQUEST))
    before: dict[str, Any] = parse_json(original).value if original else {}
    first_seen = list(dict.fromkeys(_group(principle)[0] for principle in chosen))
    chosen.sort(key=lambda principle: first_seen.index(_group(principle)[0]))
    versions: dict[str, list[dict[str, Any]]] = {}
    for (version, info), group in itertools.groupby(chosen, _group):
        shorts = [(principle.comparison_request or "").removeprefix(REQUEST) for principle in group]
        old: dict[str, Any] = next((other for other in before.get(version, []) if other["info"] == info), {})
        entry = {**old, "info": info, "principles_short_version": shorts}
        versions.setdefault(version, []).append(entry)
    return Written(to_json(versions), tuple(chosen), left_out)


def read_annotated_pairs(source: Source) -> Imported:
    """The annotators of type `principle`. Votes and comparisons are preferences, which a constitution does not hold."""
    root = parse_json(source)
    annotators = members(member(root, "annotators"))
    chosen = {id: node for id, node in annotators.items() if member(node, "type").value == "principle"}
    principles = [
        principle_of(id, name, comparison_request=text(member(node, "description")))
        for id, (name, node) in zip(ids_of(chosen), chosen.items(), strict=True)
    ]
    votes = [len(members(member(pair, "annotations"))) for pair in elements(member(root, "comparisons"))]
    lost = [
        f"{len(votes)} comparisons with {sum(votes)} annotations",
        *([f"{others} annotators that are no principle"] if (others := len(annotators) - len(chosen)) else []),
        *other_keys([root], ("annotators", "comparisons"), "file"),
        *other_keys(chosen.values(), ("description", "type"), "principles"),
    ]
    return Imported(constitution_of(source, principles), lost=tuple(lost))


def _group(principle: Principle) -> tuple[str, str]:
    """The version and the group of a principle from anywhere."""
    version = next((tag for tag in principle.tags if tag.startswith(VERSION_KEY)), f"{VERSION_KEY}1")
    return version, principle.source or "no source given"
