"""LangChain's principles (`langchain.chains.constitutional_ai.principles`): objects by name, FORMATS.md 12."""

from __future__ import annotations

from constitutional.interop.documents import Imported, Source, Written, constitution_of, fitting, lacking, principle_of
from constitutional.interop.names import ids_of, names_of
from constitutional.interop.nodes import member, members, other_keys, parse_json, text, to_json
from constitutional.principles import Constitution

KEYS = ("name", "critique_request", "revision_request")


def read(source: Source) -> Imported:
    """A LangChain file; each principle's `name` must be its key, as LangChain's own are."""
    entries = members(parse_json(source))
    principles = []
    for id, (name, entry) in zip(ids_of(entries), entries.items(), strict=True):
        inner = member(entry, "name")
        if text(inner) != name:
            raise inner.wrong(f"differs from its key '{name}'")
        critique, revision = (text(member(entry, key)) for key in KEYS[1:])
        principles.append(principle_of(id, name, critique_request=critique, revision_request=revision))
    return Imported(constitution_of(source, principles), lost=tuple(other_keys(entries.values(), KEYS, "principles")))


def write(constitution: Constitution, original: Source | None) -> Written:
    """A LangChain file."""
    chosen, left_out = fitting(constitution, lacking("critique_request", "revision_request"))
    before = parse_json(original).value if original else {}
    old = dict(zip(ids_of(before), before.values(), strict=True))
    entries = {
        name: {
            **old.get(principle.id, {}),
            "name": name,
            "critique_request": principle.critique_request,
            "revision_request": principle.revision_request,
        }
        for name, principle in zip(names_of(chosen), chosen, strict=True)
    }
    return Written(to_json(entries), tuple(chosen), left_out)
