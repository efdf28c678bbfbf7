"""Composition: a constitution file laid over those it `extends`, with the place that gave each field.

    extends: [harmlessness, team/base.yaml]     # a file beside this one, or a packaged constitution
    remove: [no-violence]
    override: {self-harm-care: {version: 1.1.0, critique_request: ...}}

Later files win by principle id, this file over all of them; declared tags add up. `remove` and `override` speak of what
is extended; what refers to a removed principle goes with it, and a note says so. What would leave a reader guessing is
refused: circles, an id said two things of, two texts under one `id@version`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import JsonValue

from constitutional.constitution.parts import (
    Part,
    joined_tags,
    tag_problems,
    without_gone_conflicts,
    without_gone_tags,
)
from constitutional.constitution.source import DISK, ConstitutionFile, Tree, bases_of, read_file, stop_if_any
from constitutional.errors import ConstitutionError, nearest, one_line
from constitutional.extends import Base
from constitutional.principles import Constitution, Principle
from constitutional.records import short_digest
from constitutional.validation import Loc, Marks, locate, validate

MAX_FILES_DEEP = 32

_OWN = {"id", "version", "title", "source", "principles"}
"""What every file says for itself. Any other field of a constitution is taken from what it extends, if not given."""


@dataclass(frozen=True)
class ExtendedFile:
    """A file that was read on the way: who named it first, and the digest of its values (its layout is free)."""

    path: Path
    place: str
    digest: str


@dataclass(frozen=True)
class Composed:
    """A constitution, and the place (`file:line:col`) of each of its keys and list items in the file that gave it.

    What has no place is a default. The place of a principle is where it is defined, whoever overrides its fields.
    """

    path: Path
    constitution: Constitution
    marks: Marks
    extended: tuple[ExtendedFile, ...]
    notes: tuple[str, ...] = ()
    """What was left out because what it names was removed, one line `file:line:col: message` each."""


@dataclass(frozen=True)
class _Layer:
    """A file and all it extends, put together."""

    file: ConstitutionFile
    marks: Marks
    digest: str
    settings: dict[str, Part]
    principles: dict[str, Part]


@dataclass(frozen=True)
class _Work:
    """What one composition has seen so far."""

    tree: Tree
    layers: dict[Path, _Layer] = field(default_factory=dict)
    extended: dict[Path, ExtendedFile] = field(default_factory=dict)
    texts: dict[str, Part] = field(default_factory=dict)
    """The first principle met under each `id@version`."""
    removed: dict[str, str] = field(default_factory=dict)
    """Where each id was first removed."""


def compose(path: Path, tree: Tree = DISK) -> Composed:
    """Reads a constitution file and all it extends.

    Raises:
        ConstitutionError: one line `file:line:col: key: message` for each thing wrong.
    """
    work = _Work(tree)
    layer, notes = _tidied(_layer(path, (), work), work)
    marks = {loc: place for loc, place in layer.marks.items() if not loc or (loc[0] in _OWN and len(loc) == 1)}
    marks.setdefault(("principles",), layer.marks.get(("extends",), layer.marks[()]))
    for name, setting in layer.settings.items():
        marks |= {(name, *loc): place for loc, place in setting.marks.items()}
    for index, part in enumerate(layer.principles.values()):
        marks.update({("principles", index, *loc): place for loc, place in part.marks.items()})
    if not layer.principles:
        raise ConstitutionError(f"{marks['principles',]}: principles: none here, and none left of what it extends")
    own = {name: getattr(layer.file, name) for name in _OWN - {"principles"}}
    settings = {name: setting.value for name, setting in layer.settings.items()}
    principles = tuple(part.value for part in layer.principles.values())
    constitution = Constitution.model_validate({**own, **settings, "principles": principles})
    return Composed(path, constitution, marks, tuple(work.extended.values()), tuple(map(one_line, notes)))


def _tidied(layer: _Layer, work: _Work) -> tuple[_Layer, list[str]]:
    """The outermost layer without references to what was removed, and a note on each."""
    ids = set(layer.principles)
    tidied = {name: without_gone_conflicts(part, ids, work.removed) for name, part in layer.principles.items()}
    principles = {name: part for name, (part, _) in tidied.items()}
    notes = [note for _, told in tidied.values() for note in told]
    settings = dict(layer.settings)
    if "tags" in settings:
        seen = [part.value for part in work.texts.values()]
        own = _setting("tags", layer.file, layer.marks)
        settings["tags"], told = without_gone_tags(settings["tags"], own, [*principles.values()], seen, work.removed)
        notes = [*told, *notes]
    return replace(layer, settings=settings, principles=principles), notes


def _layer(path: Path, chain: tuple[Base, ...], work: _Work) -> _Layer:
    key = path.resolve()
    if key not in work.layers:  # a file that is extended twice is read once, so work is linear in files
        work.layers[key] = _read_layer(path, chain, work)
    return work.layers[key]


def _read_layer(path: Path, chain: tuple[Base, ...], work: _Work) -> _Layer:
    file, data, marks = read_file(path, work.tree)
    bases = []
    for base in bases_of(path, file, marks, work.tree):
        steps = (*chain, Base(path.resolve(), base.place))
        _refuse_circle(base, steps)
        bases.append(_layer(base.path, steps, work))
        seen = ExtendedFile(base.path, base.place, bases[-1].digest)
        work.extended.setdefault(base.path.resolve(), seen)
    inherited = {name: part for base in bases for name, part in base.principles.items()}
    stop_if_any([*_edit_problems(file, marks, inherited), *_setting_problems(file, marks, bases)])
    own = {p.id: Part(p, m) for p, m in zip(file.principles, _under(marks, "principles").values(), strict=True)}
    overrides = _under(marks, "override")
    changed = {
        name: _overridden(inherited[name], fields, overrides[name], name) for name, fields in file.override.items()
    }
    claims: list[tuple[Loc, Part]] = [(("override", name), part) for name, part in changed.items()]
    claims += [(("principles", index), part) for index, part in enumerate(own.values())]
    stop_if_any(problem for loc, part in claims for problem in _claim(loc, part, work.texts))
    kept = {name: part for name, part in inherited.items() if name not in file.remove}
    for index, name in enumerate(file.remove):
        work.removed.setdefault(name, marks["remove", index])
    settings = {name: part for base in bases for name, part in base.settings.items()}
    said = {name: _setting(name, file, marks) for name in Constitution.model_fields.keys() - _OWN}
    settings |= {name: setting for name, setting in said.items() if setting}
    if "tags" in settings:
        settings["tags"] = joined_tags(_inherited_tags(bases), said["tags"])
    return _Layer(file, marks, short_digest(data), settings, kept | changed | own)


def _refuse_circle(base: Base, steps: tuple[Base, ...]) -> None:
    paths = [step.path for step in steps]
    if base.path.resolve() in paths:
        circle = [step.place for step in steps[paths.index(base.path.resolve()) :]]
        raise ConstitutionError(f"{base.place}: extends: goes in a circle ({' -> '.join([*circle, circle[0]])})")
    if len(steps) > MAX_FILES_DEEP:
        raise ConstitutionError(f"{base.place}: extends: more than {MAX_FILES_DEEP} files deep")


def _under(marks: Marks, section: str) -> dict[str | int, Marks]:
    """The places of each child of a section, by their paths from that child."""
    found: dict[str | int, Marks] = {}
    for loc, place in marks.items():
        if len(loc) > 1 and loc[0] == section:
            found.setdefault(loc[1], {})[loc[2:]] = place
    return found


def _overridden(base: Part, fields: dict[str, JsonValue], own: Marks, principle_id: str) -> Part:
    data = base.value.model_dump(mode="json") | fields
    places = {loc: place for loc, place in base.marks.items() if not loc or loc[0] not in fields}
    places |= {loc: place for loc, place in own.items() if loc}
    return Part(validate(data, places, Principle, ConstitutionError, under=("override", principle_id)), places)


def _edit_problems(file: ConstitutionFile, marks: Marks, inherited: dict[str, Part]) -> Iterator[str]:
    """What cannot be removed or overridden: not there, defined anew here, or both at once."""
    defined = {p.id: marks["principles", index] for index, p in enumerate(file.principles)}
    removed = {name: marks["remove", index] for index, name in enumerate(file.remove)}
    edits = [(f"remove.{index}", name, "removed") for index, name in enumerate(file.remove)]
    edits += [(f"override.{name}", name, "overridden") for name in file.override]
    for key, name, what in edits:
        start = f"{removed[name] if what == 'removed' else marks['override', name]}: {key}: "
        if name not in inherited:
            there = nearest(name, inherited) if inherited else " (it extends nothing)"
            yield f"{start}no principle '{name}' in what this file extends{there}"
        elif name in defined:
            yield f"{start}'{name}' is {what} here and defined at {defined[name]}: keep one of the two"
        elif what == "overridden" and name in removed:
            yield f"{start}'{name}' is overridden here and removed at {removed[name]}: keep one of the two"
        if what == "overridden" and "id" in file.override[name]:
            yield f"{marks['override', name, 'id']}: {key}.id: an overridden principle keeps its id"


def _setting(name: str, file: ConstitutionFile, marks: Marks) -> Part | None:
    """What the file itself says."""
    return Part(getattr(file, name), _places(name, marks)) if name in file.model_fields_set else None


def _places(name: str, marks: Marks) -> Marks:
    return {loc[1:]: place for loc, place in marks.items() if loc[:1] == (name,)}


def _inherited_tags(bases: list[_Layer]) -> list[Part]:
    return [base.settings["tags"] for base in bases if "tags" in base.settings]


def _setting_problems(file: ConstitutionFile, marks: Marks, bases: list[_Layer]) -> Iterator[str]:
    """Two extended files that set one thing differently, where the file itself does not say which it shall be."""
    yield from tag_problems(_inherited_tags(bases), _setting("tags", file, marks))
    first: dict[str, Part] = {}
    for base in bases:
        for name, setting in base.settings.items():
            known = first.setdefault(name, setting)
            if name != "tags" and known.value != setting.value and name not in file.model_fields_set:
                place, other = setting.marks[()], known.marks[()]
                yield f"{place}: {name}: differs from {other}, and a file that extends both must say which it shall be"


def _claim(loc: Loc, part: Part, texts: dict[str, Part]) -> Iterator[str]:
    """An `id@version` names one text, in whatever files it stands."""
    first = texts.setdefault(part.value.ref, part)
    if first is part or first.value.digest == part.value.digest:
        return
    old, new = first.value.texts, part.value.texts
    name = next(name for name in [*new, *old] if new.get(name) != old.get(name))
    here, there = locate(part.marks, (name,))[0], locate(first.marks, (name,))[0]
    remedy = "override its version too" if loc[0] == "override" else "give it another version"
    yield (
        f"{here}: {'.'.join(map(str, (*loc, name)))}: not the text of '{part.value.ref}' at {there}: "
        f"a version names one text, {remedy}"
    )
