"""AnnotatedPairs 2.0, the format of Inverse Constitutional AI and Feedback Forensics (github.com/rdnfn), FORMATS.md 9.

Pairs with the votes of annotators: people, models, principles. `read_annotated_pairs` keeps every text and vote;
`write_annotated_pairs` writes what was read, and what a judge of ours said under each principle.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from constitutional.errors import ConstitutionError, DataError
from constitutional.interop.documents import read_source
from constitutional.interop.nodes import Node, elements, member, members, other_keys, parse_json, to_json
from constitutional.records import Dialogue, user
from constitutional.rows import MAX_LIST

VERSION = "2.0"
DEFAULT = ("preferred_text", "Default annotator from original dataset (from column `preferred_text`)", "unknown")
"""Name, description and type of the annotator that others' files call the default one, by whose id readers look."""

Reason = Literal["not_applicable", "invalid", "both", "neither", "non_preference_annotation"]
REASONS = ("not_applicable", "invalid", "both", "neither", "non_preference_annotation")
_LABELS = ("human", "unknown")


@dataclass(frozen=True)
class Annotator:
    """Who votes. The description of one of type `principle` is what it asks."""

    name: str | None
    description: str
    type: str


@dataclass(frozen=True)
class Vote:
    """What an annotator says of a pair: a side, or why there is none; `value` is any JSON value beside it."""

    pref: Literal["a", "b"] | None
    reason: Reason | None = None
    value: Any = None

    @property
    def side(self) -> str | None:
        """`a`, `b`, `tie` where both or neither fit; None where nothing is said of the answers."""
        return self.pref or ("tie" if self.reason in ("both", "neither") else None)


@dataclass(frozen=True)
class AnnotatedPair:
    """Two answers and the votes on them, by annotator id. `place` says where in its file it stands."""

    id: str
    prompt: str | None
    a: str
    b: str
    a_model: str | None
    b_model: str | None
    votes: dict[str, Vote]
    place: str = ""

    @property
    def messages(self) -> Dialogue:
        """The prompt as a conversation; without turns where the file has none."""
        return () if self.prompt is None else (user(self.prompt),)


@dataclass(frozen=True)
class AnnotatedPairs:
    """A file. An item that cannot be used is the error it is. `lost` says, a line each, what is not held."""

    annotators: dict[str, Annotator]
    items: tuple[AnnotatedPair | DataError, ...]
    default: str | None
    name: str
    description: str
    created_at: str | None = None
    lost: tuple[str, ...] = ()

    def name_of(self, annotator: str) -> str:
        """What an annotator is called."""
        return self.annotators[annotator].name or annotator

    def is_label(self, annotator: str) -> bool:
        """Whether its votes are labels of the pairs: the default annotator's, and those of people."""
        return annotator == self.default or self.annotators[annotator].type == "human"


def short_hash(text: str) -> str:
    """The first 8 hex digits of the md5, as the format's own tools make ids."""
    return hashlib.md5(text.encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest()[:8]


def pair_id(prompt: str | None, a: dict[str, str], b: dict[str, str]) -> str:
    """The id that the format's own tools give a pair; `a` and `b` as in the file, with `text` and maybe `model`."""
    both = f"{json.dumps(a, sort_keys=True)}|{json.dumps(b, sort_keys=True)}"
    return short_hash(both if prompt is None else f"{prompt}|{both}")


def is_annotated_pairs(path: Path) -> bool:
    """Whether a file looks like one: a .json file that holds an object, not a list of rows."""
    if path.suffix != ".json" or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"{"
    except OSError:
        return False


def read_annotated_pairs(path: Path) -> AnnotatedPairs:
    """Reads a file.

    Raises:
        ConstitutionError: it cannot be read, is broken JSON, or is of another format or version.
    """
    return read_node(parse_json(read_source(path, MAX_LIST)))


def read_node(root: Node) -> AnnotatedPairs:
    """Reads a parsed file. Raises as `read_annotated_pairs`."""
    about = member(root, "metadata")
    version = _text(about, "version")
    if version is None or version.partition(".")[0] != "2":
        raise about.wrong(f"version: expected {VERSION} (got {version})")
    annotators = {id: _annotator(node) for id, node in members(member(root, "annotators")).items()}
    items: list[AnnotatedPair | DataError] = []
    nodes = elements(member(root, "comparisons"))
    for node in nodes:
        try:
            items.append(_pair(node, annotators))
        except ConstitutionError as error:
            items.append(DataError(str(error)))
    whole = [node for node, item in zip(nodes, items, strict=True) if isinstance(item, AnnotatedPair)]
    known = ("version", "description", "created_at", "dataset_name", "default_annotator")
    lost = [
        *other_keys([root], ("metadata", "annotators", "comparisons"), "file"),
        *other_keys([about], (*known, "available_metadata_keys_per_comparison"), "file's metadata"),
        *other_keys(members(member(root, "annotators")).values(), ("name", "description", "type"), "annotators"),
        *other_keys(
            [_without_empty(node) for node in whole],
            ("id", "prompt", "response_a", "response_b", "annotations"),
            "comparisons",
        ),
        *other_keys(
            [member(node, side) for node in whole for side in ("response_a", "response_b")],
            ("text", "model"),
            "answers",
        ),
        *other_keys(
            [vote for node in whole for vote in members(member(node, "annotations")).values()],
            ("pref", "no_pref_reason", "value"),
            "annotations",
        ),
    ]
    return AnnotatedPairs(
        annotators=annotators,
        items=tuple(items),
        default=_text(about, "default_annotator"),
        name=_text(about, "dataset_name") or "",
        description=_text(about, "description") or "",
        created_at=_text(about, "created_at"),
        lost=tuple(lost),
    )


def write_annotated_pairs(pairs: AnnotatedPairs, original: Path | None = None) -> str:
    """Writes a file.

    Args:
        pairs: what to write. Items that are errors are left out, and so are annotators without a vote, on which readers
            of the format stumble.
        original: the file it was read from: its votes of other annotators, and what else stands in it, are kept.

    Raises:
        ConstitutionError: the original cannot be read.
    """
    before: dict[str, Any] = parse_json(read_source(original, MAX_LIST)).value if original else {}
    old: dict[str, Any] = {row["id"]: row for row in before.get("comparisons", []) if isinstance(row, dict)}
    items = [item for item in pairs.items if isinstance(item, AnnotatedPair)]
    voting = {by for item in items for by in item.votes} | set(before.get("annotators", {}))
    about: dict[str, Any] = {"version": VERSION, "description": pairs.description}
    if pairs.created_at is not None:
        about["created_at"] = pairs.created_at
    about["dataset_name"] = pairs.name
    if pairs.default in voting:
        about["default_annotator"] = pairs.default
    about["available_metadata_keys_per_comparison"] = []
    annotators = {id: _annotator_json(who) for id, who in pairs.annotators.items() if id in voting}
    return to_json(
        {
            **before,
            "metadata": {**about, **before.get("metadata", {})},
            "annotators": _over(before.get("annotators", {}), annotators),
            "comparisons": [_pair_json(item, old.get(item.id, {})) for item in items],
        }
    )


def with_votes(
    pairs: AnnotatedPairs, annotators: dict[str, Annotator], votes: dict[str, dict[str, Vote]]
) -> AnnotatedPairs:
    """The same pairs with more annotators; `votes` by pair id, then annotator id."""
    items = [
        replace(item, votes={**item.votes, **votes.get(item.id, {})}) if isinstance(item, AnnotatedPair) else item
        for item in pairs.items
    ]
    return replace(pairs, annotators={**pairs.annotators, **annotators}, items=tuple(items))


def _over(before: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    return {key: {**before.get(key, {}), **new.get(key, {})} for key in {**before, **new}}


def _annotator_json(who: Annotator) -> dict[str, str]:
    name = {} if who.name is None else {"name": who.name}
    return {**name, "description": who.description, "type": who.type}


def _pair_json(item: AnnotatedPair, old: dict[str, Any]) -> dict[str, Any]:
    def answer(side: str, text: str, model: str | None) -> dict[str, Any]:
        return {**old.get(side, {}), "text": text, **({} if model is None else {"model": model})}

    votes = {by: _vote_json(vote) for by, vote in item.votes.items()}
    row: dict[str, Any] = {
        "id": item.id,
        "prompt": item.prompt,
        "response_a": answer("response_a", item.a, item.a_model),
        "response_b": answer("response_b", item.b, item.b_model),
        "annotations": _over(old.get("annotations", {}), votes),
        "metadata": {},
    }
    return {**row, **{key: value for key, value in old.items() if key not in row or key == "metadata"}}


def _vote_json(vote: Vote) -> dict[str, Any]:
    reason = {} if vote.reason is None else {"no_pref_reason": vote.reason}
    value = {} if vote.value is None else {"value": vote.value}
    return {"pref": vote.pref, **reason, **value}


def _annotator(node: Node) -> Annotator:
    return Annotator(_text(node, "name"), _text(node, "description") or "", _text(node, "type") or "unknown")


def _pair(node: Node, annotators: dict[str, Annotator]) -> AnnotatedPair:
    first, second = member(node, "response_a"), member(node, "response_b")
    votes = {}
    for by, vote in members(member(node, "annotations")).items():
        if by not in annotators:
            raise vote.wrong(f"no annotator '{by}'")
        votes[by] = _vote(vote)
    return AnnotatedPair(
        id=_needed(node, "id"),
        prompt=_text(node, "prompt"),
        a=_needed(first, "text"),
        b=_needed(second, "text"),
        a_model=_text(first, "model"),
        b_model=_text(second, "model"),
        votes=votes,
        place=f"{node.file}: {'.'.join(node.path)}",
    )


def _vote(node: Node) -> Vote:
    pref, reason = member(node, "pref").value, _text(node, "no_pref_reason")
    if pref not in ("a", "b", None):
        raise node.wrong(f"pref: expected a, b or null (got {pref!a})")
    if reason is not None and reason not in REASONS:
        raise node.wrong(f"no_pref_reason: expected one of {', '.join(REASONS)} (got {reason!a})")
    return Vote(pref, reason, node.value.get("value"))  # type: ignore[arg-type]


def _without_empty(node: Node) -> Node:
    return Node({key: value for key, value in node.value.items() if value != {}}, node.file, node.path)


def _needed(node: Node, key: str) -> str:
    member(node, key)
    found = _text(node, key)
    if found is None:
        raise node.wrong(f"{key}: expected a text (got null)")
    return found


def _text(node: Node, key: str) -> str | None:
    """A text, or None where there is none or null; an empty one is one."""
    value = members(node).get(key)
    if value is None or value.value is None:
        return None
    if not isinstance(value.value, str):
        raise value.wrong("expected a text")
    return value.value
