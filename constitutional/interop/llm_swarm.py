"""The constitution files of HuggingFace's llm-swarm (examples/constitutional-ai), FORMATS.md 6.

A list of nameless critique and revision requests, called `rule-0`, `rule-1` and on, and few-shot conversations.
"""

from __future__ import annotations

from constitutional.few_shots import NO_SHOTS
from constitutional.interop.documents import Imported, Source, Written, constitution_of, fitting, lacking, principle_of
from constitutional.interop.few_shots import CHAT, read_dialogue, write_dialogue
from constitutional.interop.nodes import Node, elements, member, members, other_keys, parse_json, text, to_json
from constitutional.interop.shot_conversion import as_conversations, held
from constitutional.principles import Constitution
from constitutional.records import Dialogue


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
    few_shots, strange = held(_chats(root))
    lost = [
        *other_keys([root], ("constitutions", "system_chat"), "file"),
        *other_keys(entries, ("critic", "revision"), "principles"),
        *strange,
    ]
    return Imported(constitution_of(source, principles, few_shots), tuple(lost))


def _chats(root: Node) -> list[Dialogue]:
    chats = elements(members(root)["system_chat"]) if "system_chat" in root.value else []
    return [read_dialogue(chat, CHAT) for chat in chats]


def write(constitution: Constitution, original: Source | None) -> Written:
    """An llm-swarm file. llm-swarm reads `system_chat` always, so it is there when there are no few-shots, too."""
    chosen, left_out = fitting(constitution, lacking("critique_request", "revision_request"))
    before = parse_json(original) if original else None
    old = {f"rule-{index}": entry for index, entry in enumerate(before.value["constitutions"] if before else [])}
    entries = [{**old.get(p.id, {}), "critic": p.critique_request, "revision": p.revision_request} for p in chosen]
    few_shots = constitution.few_shots or NO_SHOTS
    chats = [write_dialogue(chat, CHAT) for chat in as_conversations(few_shots)[0]]
    if before and held(_chats(before))[0] == few_shots:  # with the chats that are no few-shots of ours
        chats = before.value.get("system_chat", [])
    root = {**(before.value if before else {}), "constitutions": entries, "system_chat": chats}
    return Written(to_json(root), tuple(chosen), left_out)
