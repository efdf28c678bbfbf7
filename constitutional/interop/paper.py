"""The prompt files of Bai et al. 2022 (github.com/anthropics/ConstitutionalHarmlessnessPaper), FORMATS.md 1 and 2.

`cai-sl`: critique and revision requests, each between the words of the paper's transcript; NeMo-Aligner copies the
file. `cai-rl`: a list of comparison requests. The typos of both are part of them.
"""

from __future__ import annotations

from typing import Any

from constitutional.interop.documents import Imported, Source, Written, constitution_of, fitting, lacking, principle_of
from constitutional.interop.names import ids_of, names_of
from constitutional.interop.nodes import elements, member, members, other_keys, parse_json, text, to_json
from constitutional.principles import Constitution, Principle

CRITIQUE = ("\n\nCritiqueRequest: ", "\n\nCritique:")
REVISION = ("\n\nRevisionRequest: ", "\n\nRevision:")
COMPARISON = ("\n", " Options:")


def paper_requests(principle: Principle) -> dict[str, Any]:
    """What the paper's transcript asks because of a principle: `cst_value` in its samples, a value of its SL file."""
    return {
        "prompt": [CRITIQUE[0] + (principle.critique_request or "") + CRITIQUE[1]],
        "edit_request": REVISION[0] + (principle.revision_request or "") + REVISION[1],
    }


def read_sl(source: Source) -> Imported:
    """The supervised phase's file."""
    entries = members(parse_json(source))
    principles = []
    for id, (name, entry) in zip(ids_of(entries), entries.items(), strict=True):
        prompts = member(entry, "prompt")
        if len(elements(prompts)) != 1:
            raise prompts.wrong(f"expected a list of one text (got {len(elements(prompts))})")
        critique = text(elements(prompts)[0], *CRITIQUE)
        revision = text(member(entry, "edit_request"), *REVISION)
        principles.append(principle_of(id, name, critique_request=critique, revision_request=revision))
    lost = other_keys(entries.values(), ("prompt", "edit_request"), "principles")
    return Imported(constitution_of(source, principles), lost=tuple(lost))


def write_sl(constitution: Constitution, original: Source | None) -> Written:
    """The supervised phase's file."""
    chosen, left_out = fitting(constitution, lacking("critique_request", "revision_request"))
    before = parse_json(original).value if original else {}
    old = dict(zip(ids_of(before), before.values(), strict=True))
    entries = {
        name: {**old.get(principle.id, {}), **paper_requests(principle)}
        for name, principle in zip(names_of(chosen), chosen, strict=True)
    }
    return Written(to_json(entries), tuple(chosen), left_out)


def read_rl(source: Source) -> Imported:
    """The RL phase's file. Its principles have no names: they are called `rl0`, `rl1` and on."""
    requests = [text(item, *COMPARISON) for item in elements(parse_json(source))]
    principles = [principle_of(f"rl{index}", comparison_request=request) for index, request in enumerate(requests)]
    return Imported(constitution_of(source, principles))


def write_rl(constitution: Constitution, original: Source | None) -> Written:
    """The RL phase's file."""
    chosen, left_out = fitting(constitution, lacking("comparison_request"))
    return Written(
        to_json([f"{COMPARISON[0]}{p.comparison_request}{COMPARISON[1]}" for p in chosen]), tuple(chosen), left_out
    )
