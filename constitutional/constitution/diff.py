"""What differs between two constitutions, principle by principle, as a record and in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from pydantic import JsonValue

from constitutional.errors import one_line
from constitutional.principles import Constitution, Example, Principle
from constitutional.records import Record, canonical_json

Kind = Literal["added", "removed", "renamed", "changed"]

_APART = {"id", "version", "examples", "principles"}
"""Fields that are told in their own way."""


class FieldChange(Record):
    """One field, before and after."""

    field: str
    old: JsonValue
    new: JsonValue


class PrincipleChange(Record):
    """What became of one principle. `renamed`: another id for the very same texts."""

    kind: Kind
    old: str | None
    """`id@version` before; None: it was not there."""
    new: str | None
    title: str
    fields: tuple[FieldChange, ...] = ()
    examples_added: tuple[Example, ...] = ()
    examples_removed: tuple[Example, ...] = ()
    unversioned: bool = False
    """A text changed under an unchanged `id@version`."""


class Difference(Record):
    """What differs between two constitutions: nothing, if all but the two names is empty."""

    old: str
    new: str
    fields: tuple[FieldChange, ...] = ()
    principles: tuple[PrincipleChange, ...] = ()
    reordered: bool = False
    """The principles that both have come in another order."""

    @property
    def empty(self) -> bool:
        """Whether the two are the same."""
        return self.old == self.new and not (self.fields or self.principles or self.reordered)


def diff(old: Constitution, new: Constitution) -> Difference:
    """What became of each principle: changed, renamed and added ones in the order of the new, then removed ones."""
    before, after = ({p.id: p for p in c.principles} for c in (old, new))
    origins = _renamed(before, after)
    pairs = [(before.get(origins.get(name, name)), principle) for name, principle in after.items()]
    gone = [p for name, p in before.items() if name not in after and name not in origins.values()]
    changes = [_change(was, now) for was, now in pairs]
    common = [p.id for p, _ in pairs if p is not None]
    return Difference(
        old=old.ref,
        new=new.ref,
        fields=_fields(old, new),
        principles=(
            *(change for change in changes if change is not None),
            *(PrincipleChange(kind="removed", old=p.ref, new=None, title=p.title) for p in gone),
        ),
        reordered=common != [name for name in before if name in common],
    )


def render(difference: Difference) -> str:
    """The same in words."""
    lines = [f"{difference.old} -> {difference.new}: " + ("no difference" if difference.empty else summary(difference))]
    lines += _field_lines(difference.fields)
    if difference.reordered:
        lines.append("  the principles come in another order")
    for change in difference.principles:
        lines.append("")
        lines += _change_lines(change)
    return "\n".join(lines) + "\n"


def _renamed(before: dict[str, Principle], after: dict[str, Principle]) -> dict[str, str]:
    """New id -> old id, where one went and one came with the same texts; of several alike, in order."""
    left: dict[str, list[str]] = {}
    for name, principle in before.items():
        if name not in after:
            left.setdefault(canonical_json(principle.texts), []).append(name)
    came = [principle for name, principle in after.items() if name not in before]
    alike = ((principle.id, left.get(canonical_json(principle.texts))) for principle in came)
    return {name: names.pop(0) for name, names in alike if names}


def _change(was: Principle | None, now: Principle) -> PrincipleChange | None:
    if was is None:
        return PrincipleChange(kind="added", old=None, new=now.ref, title=now.title)
    if was == now:
        return None
    added, removed = Counter(now.examples), Counter(was.examples)
    return PrincipleChange(
        kind="changed" if was.id == now.id else "renamed",
        old=was.ref,
        new=now.ref,
        title=now.title,
        fields=_fields(was, now),
        examples_added=tuple((added - removed).elements()),
        examples_removed=tuple((removed - added).elements()),
        unversioned=was.ref == now.ref and was.digest != now.digest,
    )


def _fields(old: Record, new: Record) -> tuple[FieldChange, ...]:
    names = [name for name in type(new).model_fields if name not in _APART]
    before, after = (record.model_dump(mode="json", include=set(names)) for record in (old, new))
    changed = [name for name in names if before[name] != after[name]]
    return tuple(FieldChange(field=name, old=before[name], new=after[name]) for name in changed)


def summary(difference: Difference) -> str:
    """How many principles were added, removed, renamed and changed."""
    counts = Counter(change.kind for change in difference.principles)
    told = [f"{counts[kind]} {kind}" for kind in ("added", "removed", "renamed", "changed") if counts[kind]]
    return f"principles: {', '.join(told)}" if told else "the same principles"


def _change_lines(change: PrincipleChange) -> Iterator[str]:
    names = " -> ".join(name for name in (change.old, change.new) if name)
    if change.old == change.new:
        names = str(change.new)
    yield f"{change.kind} {names}: {one_line(change.title)}"
    if change.unversioned:
        yield "  a text changed and the version did not"
    yield from _field_lines(change.fields)
    for what, sign, examples in (
        ("removed", "-", change.examples_removed),
        ("added", "+", change.examples_added),
    ):
        for example in examples:
            yield f"  example {what} ({example.split})"
            for name in ("prompt", "better", "worse"):
                yield from _told(sign, f"{name}: {getattr(example, name)}")


def _field_lines(fields: Sequence[FieldChange]) -> Iterator[str]:
    for change in fields:
        yield f"  {change.field}"
        old, new = _items(change.old), _items(change.new)
        if Counter(old) != Counter(new):  # of a list, only what differs; of one in another order, all
            before, after = Counter(old), Counter(new)
            old, new = list((before - after).elements()), list((after - before).elements())
        yield from (line for item in old for line in _told("-", item))
        yield from (line for item in new for line in _told("+", item))


def _items(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [] if value is None else [value]
    return [item if isinstance(item, str) else canonical_json(item) for item in values]


def _told(sign: str, text: str) -> Iterator[str]:
    yield from (f"    {sign} {one_line(line)}" for line in text.split("\n"))
