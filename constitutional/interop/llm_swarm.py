"""The constitution files of HuggingFace's llm-swarm (examples/constitutional-ai), FORMATS.md 6.

A list of nameless critique and revision requests, called `rule-0`, `rule-1` and on, and few-shot conversations.
"""

from __future__ import annotations

from constitutional.errors import ConstitutionError
from constitutional.interop.documents import Imported, Source, Written, constitution_of, fitting, lacking, principle_of
from constitutional.interop.few_shots import CHAT, read_dialogue, write_dialogue
from constitutional.interop.nodes import elements, member, members, other_keys, parse_json, text, to_json
from constitutional.interop.shots import FewShot
from constitutional.principles import Constitution


def read(source: Source) -> Imported:
    """An llm-swarm file, its `system_chat` as few-shots."""
    root = parse_json(source)
    entries = elements(member(root, "constitutions"))
    principles = [
        principle_of(
            f"rule-{index}",
            critique_request=text(member(entry, "critic")),
            revision_request=text(member(entry, "revision")),
        )
        for index, entry in enumerate(entries)
    ]
    chats = elements(members(root)["system_chat"]) if "system_chat" in root.value else []
    lost = [
        *other_keys([root], ("constitutions", "system_chat"), "file"),
        *other_keys(entries, ("critic", "revision"), "principles"),
    ]
    few_shots = tuple(read_dialogue(chat, CHAT) for chat in chats)
    return Imported(constitution_of(source, principles), few_shots, tuple(lost))


def write(constitution: Constitution, few_shots: tuple[FewShot, ...], original: Source | None) -> Written:
    """An llm-swarm file. llm-swarm reads `system_chat` always, so it is there when there are no few-shots, too.

    Raises:
        ConstitutionError: a few-shot is no conversation.
    """
    chosen, left_out = fitting(constitution, lacking("critique_request", "revision_request"))
    before = parse_json(original).value if original else {}
    old = {f"rule-{index}": entry for index, entry in enumerate(before.get("constitutions", []))}
    entries = [{**old.get(p.id, {}), "critic": p.critique_request, "revision": p.revision_request} for p in chosen]
    chats = []
    for index, shot in enumerate(few_shots):
        if not isinstance(shot, tuple):
            raise ConstitutionError(f"few-shot {index}: llm-swarm holds conversations only")
        chats.append(write_dialogue(shot, CHAT))
    return Written(to_json({**before, "constitutions": entries, "system_chat": chats}), tuple(chosen), left_out)
