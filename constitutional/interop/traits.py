"""Formats whose rules are statements, not questions; a fixed question before each makes it one a judge can answer.

`open-character`: OpenCharacterTraining's traits with questions that bring them out. `typo`: rules with other wordings
and antitheses. FORMATS.md 12. What a constitution does not hold an export takes from the original file.
"""

from __future__ import annotations

from constitutional.interop.documents import Imported, Source, Written, asked_as, constitution_of, fitting, principle_of
from constitutional.interop.names import ids_of, names_of
from constitutional.interop.nodes import Node, elements, member, members, other_keys, parse_json, text, to_json
from constitutional.principles import Constitution, Principle

TRAIT = "Which response shows more of this trait of its author?\n\n"
RULE = "Which response follows this rule better?\n\n"


def read_open_character(source: Source) -> Imported:
    """The traits of an OpenCharacterTraining file (JSON, though its name may end in .txt)."""
    entries = elements(parse_json(source))
    principles = [
        principle_of(f"trait-{index}", comparison_request=TRAIT + text(member(entry, "trait")))
        for index, entry in enumerate(entries)
    ]
    return Imported(constitution_of(source, principles), lost=tuple(other_keys(entries, ("trait",), "traits")))


def write_open_character(constitution: Constitution, original: Source | None) -> Written:
    """An OpenCharacterTraining file. Without an original its lists of questions are empty."""
    chosen, left_out = fitting(constitution, asked_as(TRAIT))
    before = parse_json(original).value if original else []
    old = {f"trait-{index}": entry for index, entry in enumerate(before)}
    entries = [
        {"trait": _inside(p.comparison_request, TRAIT), **_without(old.get(p.id, {"questions": []}), "trait")}
        for p in chosen
    ]
    return Written(to_json(entries), tuple(chosen), left_out)


def read_typo(source: Source) -> Imported:
    """Rules with paraphrases; the first antithesis is the negated request."""
    entries = members(parse_json(source))
    principles = [_rule(id, name, entry) for id, (name, entry) in zip(ids_of(entries), entries.items(), strict=True)]
    spare = [max(len(node.value.get("paraphrases_antithesis", [])) - 1, 0) for node in entries.values()]
    lost = [
        *([f"{sum(spare)} antitheses beyond the first of a rule"] if any(spare) else []),
        *other_keys(entries.values(), ("definition", "paraphrases", "paraphrases_antithesis"), "rules"),
    ]
    return Imported(constitution_of(source, principles), lost=tuple(lost))


def write_typo(constitution: Constitution, original: Source | None) -> Written:
    """A file of rules. Without an original each has one antithesis, or none."""
    chosen, left_out = fitting(constitution, _typo_problem)
    before = parse_json(original).value if original else {}
    old = dict(zip(ids_of(before), before.values(), strict=True))
    entries = {}
    for name, principle in zip(names_of(chosen), chosen, strict=True):
        entry = old.get(principle.id, {})
        negated = _inside(principle.negated_comparison_request, RULE)
        antitheses = [negated, *entry.get("paraphrases_antithesis", [])[1:]] if negated else []
        entries[name] = {
            **entry,
            "definition": _inside(principle.comparison_request, RULE),
            "paraphrases": [_inside(paraphrase, RULE) for paraphrase in principle.paraphrases],
            "paraphrases_antithesis": antitheses,
        }
    return Written(to_json(entries), tuple(chosen), left_out)


def _rule(id: str, name: str, entry: Node) -> Principle:
    paraphrases, antitheses = (
        [RULE + text(item) for item in elements(member(entry, key))]
        for key in ("paraphrases", "paraphrases_antithesis")
    )
    return principle_of(
        id,
        name,
        comparison_request=RULE + text(member(entry, "definition")),
        paraphrases=tuple(paraphrases),
        negated_comparison_request=antitheses[0] if antitheses else None,
    )


def _typo_problem(principle: Principle) -> str | None:
    """All its requests must be rules put as questions: an antithesis or paraphrase of another form has no place."""
    others = [*principle.paraphrases, *filter(None, [principle.negated_comparison_request])]
    if not all(request.startswith(RULE) for request in others):
        return f"a paraphrase or its negated_comparison_request does not begin with {RULE!r}"
    return asked_as(RULE)(principle)


def _inside(request: str | None, question: str) -> str:
    return (request or "").removeprefix(question)


def _without(entry: dict[str, object], key: str) -> dict[str, object]:
    return {name: value for name, value in entry.items() if name != key}
