"""Raises the version of a principle in its file, with a changelog entry, and leaves every other byte alone."""

from __future__ import annotations

import copy
import re
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import yaml

from constitutional.atomic import write_atomic
from constitutional.constitution.compose import compose
from constitutional.constitution.lock import check_lock
from constitutional.constitution.show import quoted
from constitutional.constitution.source import ConstitutionFile, read_file
from constitutional.constitution.starter import SUFFIXES
from constitutional.errors import ConstitutionalError, ConstitutionError, nearest, one_line
from constitutional.resources import find, packaged
from constitutional.validation import Loc, Marks
from constitutional.yamlfile import parse_nodes, parse_yaml

Part = Literal["major", "minor", "patch"]
Edit = tuple[int, int, str]
"""From, to (in characters), and what to put there."""

_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_BOM = "\ufeff"


def bump(name_or_path: str, principle_id: str, part: Part, text: str | None = None) -> str:
    """Raises the version of a principle where the file states it: under `principles`, or under `override`.

    Args:
        name_or_path: the constitution.
        principle_id: which of its principles.
        part: which of the three numbers to raise.
        text: what the version changes, for the changelog; None says which fields differ from the lock.

    Returns:
        The new `id@version`.

    Raises:
        ConfigError, ConstitutionError: no such constitution, the file cannot be read or written, it does not state the
            version of such a principle (says which file does), or it is laid out so that no edit is safe.
    """
    path = find("constitutions", name_or_path)
    if not Path(name_or_path).is_file() and path.parent == packaged("constitutions"):
        raise ConstitutionError(f"{name_or_path}: a shipped constitution, which others use too: copy it, or extend it")
    file, data, marks = read_file(path)
    loc = _mapping_of(path, file, marks, principle_id)
    old, changelog = (_at(data, loc).get(name) for name in ("version", "changelog"))
    if not isinstance(old, str) or not re.fullmatch(r"\d{1,9}\.\d{1,9}\.\d{1,9}", old):
        raise ConstitutionError(f"{marks[*loc, 'version']}: version: cannot be raised: expected three numbers")
    if "changelog" in _at(data, loc) and not isinstance(changelog, list):
        raise ConstitutionError(f"{marks[*loc, 'changelog']}: changelog: expected a list")
    entry = {"version": raised(old, part), "text": text if text is not None else _what_changed(path, principle_id)}
    if not entry["text"].strip() or len(entry["text"].splitlines()) > 1:
        raise ConstitutionError("the text of a changelog entry must be one line, and not empty")
    content = path.read_bytes().decode("utf-8")
    new = edited(content, loc, entry)
    _check(new, _expected(data, loc, entry), marks[*loc, "version"])
    write_atomic(path, new, ConstitutionError)
    return f"{principle_id}@{entry['version']}"


def file_with(principle_id: str) -> Path:
    """The constitution in the working folder, or in `constitutions/` under it, that states a principle's version.

    Raises:
        ConstitutionError: none does, or several do; names them.
    """
    found, ids = [], set[str]()
    for path in sorted(path for folder in ("", "constitutions/") for path in Path().glob(f"{folder}*")):
        if path.suffix not in SUFFIXES:
            continue
        with suppress(ConstitutionalError):  # a recipe, or a file with a mistake of its own
            file, _, _ = read_file(path)
            stated = {p.id for p in file.principles} | {id for id, by in file.override.items() if "version" in by}
            ids |= stated
            if principle_id in stated:
                found.append(path)
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(map(str, found))
        message = f"several constitutions with a principle '{principle_id}' ({names}): name the file, too"
    else:
        message = f"no constitution here or in constitutions/ states '{principle_id}'{nearest(principle_id, ids)}"
    raise ConstitutionError(one_line(message))


def raised(version: str, part: Part) -> str:
    """The next version: what is right of the raised number starts again at 0."""
    numbers = [int(number) for number in version.split(".")]
    at = ("major", "minor", "patch").index(part)
    return ".".join(str(n) for n in [*numbers[:at], numbers[at] + 1, *([0] * (2 - at))])


def edited(content: str, loc: Loc, entry: dict[str, str]) -> str:
    """The content of a file with another version, and one more changelog entry, in the mapping at `loc`.

    Args:
        content: YAML that `parse_yaml` accepts.
        loc: where the mapping stands that has the `version`.
        entry: the changelog entry, with its `version`.
    """
    bom = _BOM if content.startswith(_BOM) else ""
    text = content.removeprefix(_BOM)
    mapping = _node(parse_nodes(text), loc)
    values = {key.value: value for key, value in mapping.value}
    edits = [_version_edit(text, values["version"], entry["version"])]
    if "changelog" in values:
        edits.append(_entry_edit(text, values["changelog"], entry))
    else:
        edits.append(_changelog_edit(text, mapping, values["version"], entry))
    for start, end, new in sorted(edits, reverse=True):
        text = text[:start] + new + text[end:]
    return bom + text


def _version_edit(text: str, node: Any, new: str) -> Edit:
    """The digits alone, whatever quotes or block sign stand around them; a spelling with escapes is written anew."""
    start, end = node.start_mark.index, node.end_mark.index
    at = text.rfind(node.value, start, end)
    return (at, at + len(node.value), new) if at >= 0 else (start, end, f'"{new}"')


def _entry_edit(text: str, node: Any, entry: dict[str, str]) -> Edit:
    """The newest entry goes first."""
    start = node.start_mark.index
    if node.flow_style:
        return (start + 1, start + 1, quoted(entry) + (", " if node.value else ""))
    column = node.start_mark.column
    lines = ["- version: " + entry["version"], f"  text: {quoted(entry['text'])}", ""]
    return (start, start, (_break(text, start) + " " * column).join(lines))


def _changelog_edit(text: str, mapping: Any, version: Any, entry: dict[str, str]) -> Edit:
    start, end = version.start_mark.index, version.end_mark.index
    if mapping.flow_style:
        return (end, end, f", changelog: [{quoted(entry)}]")
    end = start + len(text[start:end].rstrip())  # the span of a block scalar reaches into the next line
    found = _BREAK.search(text, end)
    end = found.start() if found else len(text)  # behind a comment
    lines = ["", "changelog:", f"  - version: {entry['version']}", f"    text: {quoted(entry['text'])}"]
    return (end, end, (_break(text, end) + " " * mapping.start_mark.column).join(lines))


def _break(text: str, index: int) -> str:
    """The line break in use: that of this line, else of the line before."""
    found = _BREAK.search(text, index) or _BREAK.search(text)
    return found.group() if found and found.group() in ("\r\n", "\r") else "\n"


def _mapping_of(path: Path, file: ConstitutionFile, marks: Marks, principle_id: str) -> Loc:
    """Where the file states the version of a principle.

    Raises:
        ConstitutionError: it does not; says which file does, or the nearest id.
    """
    for index, principle in enumerate(file.principles):
        if principle.id == principle_id:
            return ("principles", index)
    if "version" in file.override.get(principle_id, {}):
        return ("override", principle_id)
    composed = compose(path)
    for index, principle in enumerate(composed.constitution.principles):
        if principle.id == principle_id:
            place = composed.marks["principles", index, "version"]
            raise ConstitutionError(f"{path}: '{principle_id}' has its version from {place}: raise it there")
    ids = [principle.id for principle in composed.constitution.principles]
    raise ConstitutionError(one_line(f"{path}: no principle '{principle_id}'{nearest(principle_id, ids)}"))


def _what_changed(path: Path, principle_id: str) -> str:
    try:
        fields = [
            name for problem in check_lock(str(path)) if problem.principle == principle_id for name in problem.fields
        ]
    except ConstitutionalError:  # what cannot be compared can still be mended
        fields = []
    return f"Changed {', '.join(fields)}." if fields else "Changed."


def _expected(data: Any, loc: Loc, entry: dict[str, str]) -> Any:
    data = copy.deepcopy(data)
    mapping = _at(data, loc)
    mapping["version"] = entry["version"]
    mapping["changelog"] = [entry, *mapping.get("changelog", [])]
    return data


def _check(content: str, expected: Any, place: str) -> None:
    """No edit is written that does not say exactly what was meant: YAML has more spellings than anyone foresees."""
    try:
        data, _ = parse_yaml(content, "the edited file", ConstitutionError)
    except ConstitutionError as error:
        raise ConstitutionError(f"{place}: version: cannot be raised in this layout ({error})") from error
    if data != expected:
        raise ConstitutionError(f"{place}: version: cannot be raised in this layout: write `version: 1.0.0` on a line")


def _at(data: Any, loc: Loc) -> Any:
    for step in loc:
        data = data[step]
    return data


def _node(root: yaml.Node, loc: Loc) -> Any:
    node: Any = root
    for step in loc:
        node = node.value[step] if isinstance(step, int) else next(v for k, v in node.value if k.value == step)
    return node
