"""The tree a trace is, and the parts every node of it shares: prompts, principles, templates, models, checks."""

from __future__ import annotations

from collections.abc import Sequence

from constitutional.audit.index import Entry, Index
from constitutional.checks import coded_digest
from constitutional.records import Dialogue, Judgment, Record, Said

Fact = tuple[str, str]

PROBLEM = "PROBLEM"
"""Name of the facts that say that two records which should agree do not."""

POLICY_TEXT = "policy_text"
"""Name in lock.json of what wrote the policy's text, where that was another engine than the policy's own."""

_USES_SHOWN = 8


class TraceNode(Record):
    """A record, step or principle: what it says and what it was made from. Texts are whole, and untrusted."""

    kind: str
    id: str
    title: str
    facts: tuple[Fact, ...] = ()
    children: tuple[TraceNode, ...] = ()


def problems(node: TraceNode) -> list[str]:
    """Every disagreement found in a tree, as `kind id: what`."""
    own = [f"{node.kind} {node.id}: {value}" for name, value in node.facts if name == PROBLEM]
    return own + [line for child in node.children for line in problems(child)]


def check(holds: bool, what: str) -> list[Fact]:
    """A PROBLEM fact unless the check holds."""
    return [] if holds else [(PROBLEM, what)]


def missing(kind: str, record_id: str, why: str = "not among the run's current records") -> TraceNode:
    """The node of a record that is cited and not to be found."""
    return TraceNode(kind=kind, id=record_id, title=why, facts=((PROBLEM, f"{kind} {record_id} is {why}"),))


def where(entry: Entry) -> list[Fact]:
    """Where a record stands and what was made from it."""
    facts = [("stands in", ", ".join(entry.places[:_USES_SHOWN]) + _more(len(entry.places)))]
    if entry.uses:
        used = ", ".join(f"{use.kind} {use.id}" for use in entry.uses[:_USES_SHOWN])
        facts.append(("used by", used + _more(len(entry.uses))))
    return facts


def dialogue_text(dialogue: Dialogue) -> str:
    """A conversation as text, one `role: content` a turn; the content alone where there is one user turn."""
    if len(dialogue) == 1:
        return dialogue[0].content
    return "\n".join(f"{message.role}: {message.content}" for message in dialogue)


def prompt_node(ix: Index, prompt_id: str, messages: Dialogue | None = None) -> TraceNode:
    """The prompt a record names; `messages` is the conversation the record itself holds, which must be the same."""
    prompt = ix.view.prompts.get(prompt_id)
    if prompt is None:
        return missing("prompt", prompt_id, "not among the run's prompts")
    facts = [("kind", prompt.kind), ("split", prompt.split), ("source", prompt.source)]
    facts += [("text", dialogue_text(prompt.messages))]
    facts += check(messages in (None, prompt.messages), "the record holds another conversation than the prompt")
    title = f"{prompt.kind} prompt of {prompt.source}"
    return TraceNode(kind="prompt", id=prompt.id, title=title, facts=tuple(facts))


def principle_node(
    ix: Index, ref: str, digest: str | None, requests: Sequence[str], recorded: Sequence[object] | None = None
) -> TraceNode:
    """The principle a record cites, looked up in every constitution the run was made under, the present one first.

    Args:
        ix: the run.
        ref: `id@version`.
        digest: as recorded with the citation; None where the record cites the name only.
        requests: which of its request texts reached a model.
        recorded: these texts as the record holds them; None where it does not.
    """
    present = ix.view.texts[0].constitution
    known = [
        (text.constitution, text.checks.get(ref), principle)
        for text in ix.view.texts
        for principle in text.constitution.principles
        if principle.ref == ref
    ]
    if not known:
        return missing("principle", ref, f"in no constitution stored in the run (now {present.ref})")
    cited = [
        one
        for one in known
        if digest in (None, coded_digest(one[2], one[1]))
        and (recorded is None or [getattr(one[2], name) for name in requests] == list(recorded))
    ]
    constitution, code, found = (cited or known)[0]
    expected = coded_digest(found, code)
    stated = digest or expected
    earlier = "" if constitution.digest == present.digest else f", not the present one ({present.digest})"
    facts = [("digest", stated), ("constitution", f"{constitution.ref} digest {constitution.digest}{earlier}")]
    facts += [("code", code)] if code else []
    facts += check(
        expected == stated,
        f"recorded with digest {stated}, but {ref} in the constitution stored in the run has {expected}",
    )
    if (constitution, code) == (present, ix.view.texts[0].checks.get(ref)):
        facts += check(
            ix.view.lock.get("principles", {}).get(ref) == expected,
            f"lock.json has another digest for {ref} than the constitution stored in the run",
        )
    locked = ix.view.lock.get("constitution", {}).get("digest", present.digest)
    facts += check(locked == present.digest, f"lock.json names constitution {locked}, constitution.json is another")
    texts = {name: getattr(found, name) for name in requests}
    for name, said in zip(requests, recorded or (), strict=False):
        facts += check(said == texts[name], f"the step used another {name} than the constitution stored in the run has")
    facts += [(name, text) for name, text in texts.items() if text]
    facts += [("source", found.source)] if found.source else []
    return TraceNode(kind="principle", id=ref, title=found.title, facts=tuple(facts))


def code_of(ix: Index, ref: str) -> list[str]:
    """Every identity a principle's check had in the run, the present one first."""
    return list(dict.fromkeys(text.checks[ref] for text in ix.view.texts if ref in text.checks))


def template_facts(ix: Index, digests: Sequence[str]) -> list[Fact]:
    """The templates behind digests, by the names the run's lock has for them."""
    locked = dict(ix.view.lock.get("templates", {}))
    pack = str(locked.pop("pack", "?"))
    names = {digest: name for name, digest in locked.items()}
    facts: list[Fact] = []
    for digest in digests:
        facts.append(("template", f"{names.get(digest, '?')} of pack {pack}, digest {digest}"))
        facts += check(digest in names, f"template {digest} is not among those the run locked")
    return facts


def model_facts(ix: Index, name: str, identity: str, role: str) -> list[Fact]:
    """A model that took part, checked against the one the run locked for its role."""
    return _checked_model(name, identity, role, ix.view.lock.get("models", {}).get(role))


def writer_facts(ix: Index, name: str, identity: str, role: str) -> list[Fact]:
    """What wrote a text, checked against what the run locked for its role, for the policy's text an engine, perhaps."""
    models = ix.view.lock.get("models", {})
    locked = models.get(role)
    own = locked == models.get("policy")  # feedback may be the policy itself
    return _checked_model(name, identity, role, models.get(POLICY_TEXT, locked) if own else locked)


def _checked_model(name: str, identity: str, role: str, locked: object) -> list[Fact]:
    return [(name, identity), *check(identity == locked, f"the run locked {locked} as its {role}, not {identity}")]


def logprobs_text(logprobs: Sequence[float]) -> str:
    """Log-probabilities in a row."""
    return ", ".join(f"{value:.4f}" for value in logprobs) or "none"


def said_facts(said: Said) -> list[Fact]:
    """What a judge said to whether a principle applies."""
    facts: list[Fact] = [("p of applies", "none" if said.p is None else f"{said.p:.4f}")]
    facts += [("its log-probabilities", logprobs_text(said.logprobs))]
    return [*facts, ("its mass", "none" if said.mass is None else f"{said.mass:.4f}")]


def said_by(ix: Index, said: Said) -> list[Fact]:
    """Which judge said it, and to which template."""
    return model_facts(ix, "judge of that", said.judge, "judge") + template_facts(ix, [said.template])


def ledger_facts(ix: Index, judgment: Judgment) -> list[Fact]:
    """Whether the ledger holds this very judgment."""
    if ix.view.ledger is None:
        return [(PROBLEM, "the run has no ledger")]
    stored = ix.view.ledger.by_id(judgment.id)
    return [("ledger", "holds it")] if stored == judgment else [(PROBLEM, "the ledger does not hold it")]


def seed_facts(**seeds: int | None) -> list[Fact]:
    """The seeds that single texts were drawn with, by what was drawn; none for what was not drawn."""
    return [(f"seed of {drawn}", str(seed)) for drawn, seed in seeds.items() if seed is not None]


def _more(count: int) -> str:
    return f" and {count - _USES_SHOWN} more" if count > _USES_SHOWN else ""
