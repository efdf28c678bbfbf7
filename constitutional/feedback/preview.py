"""What a stage would ask a model under one principle: its templates, few-shots and orders, with texts of one's own.

A slot that is given no text gets a placeholder, and the preview says which those are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from constitutional.errors import ConfigError, nearest
from constitutional.feedback.judge import questions
from constitutional.feedback.judging.ways import TEMPLATE_OF, Way
from constitutional.principles import Constitution, Principle
from constitutional.records import Comparison, Dialogue, user
from constitutional.templates import TemplatePack

REQUESTS = {
    "critique": ("critique_request",),
    "revise": ("critique_request", "revision_request"),
    "revise_direct": ("revision_request",),
    "judge": ("comparison_request",),
    "judge_cot": ("comparison_request",),
    "vote": ("comparison_request",),
    "score": ("score_request",),
    "applies": ("applies_when",),
    "respond": (),
}
"""The templates a preview knows, and what a principle must have for each."""

SLOTS = {
    "critique": ("prompt", "answer"),
    "revise": ("prompt", "answer", "critique"),
    "revise_direct": ("prompt", "answer"),
    "judge": ("prompt", "a", "b"),
    "judge_cot": ("prompt", "a", "b"),
    "vote": ("prompt", "a", "b"),
    "score": ("prompt", "answer"),
    "applies": ("prompt",),
    "respond": ("prompt",),
}
"""What stands in each besides the requests."""


@dataclass(frozen=True)
class Preview:
    """One question: how it is called, what is sent, and the slots that hold placeholders."""

    name: str
    dialogue: Dialogue
    placeholders: tuple[str, ...]


def preview(
    template: str,
    constitution: Constitution,
    principle_id: str | None,
    *,
    pack: TemplatePack,
    texts: Mapping[str, str],
) -> list[Preview]:
    """The questions a template puts: one, or one in each order where two answers are compared.

    Args:
        template: a name in `REQUESTS`.
        constitution: whose principle asks, and whose few-shots are shown.
        principle_id: id or id@version; `respond` needs none.
        pack: the templates.
        texts: by slot (`prompt`, `answer`, `critique`, `a`, `b`).

    Raises:
        ConfigError: no such template or principle, one without the request, or a text the template has no slot for.
    """
    if template not in REQUESTS:
        raise ConfigError(f"no template '{template}'{nearest(template, REQUESTS)}")
    slots = SLOTS[template]
    for name in texts:
        if name not in slots:
            raise ConfigError(f"'{template}' has no slot '{name}' (it has: {', '.join(slots)})")
    missing = tuple(name for name in slots if name not in texts)
    filled = {name: texts.get(name, f"[no {name} given]") for name in slots}
    pack = pack.with_few_shots(constitution.few_shots)
    conversation = (user(filled.pop("prompt")),)
    if template == "respond":
        return [Preview("respond", pack.render("respond", conversation=conversation).dialogue, missing)]
    principle = _principle(constitution, principle_id, template)
    mode = next((mode for mode, name in TEMPLATE_OF.items() if name == template), None)
    if mode in ("logprob", "cot", "vote"):
        pair = Comparison(prompt_id="preview", messages=conversation, a=filled["a"], b=filled["b"], origin="human")
        asked = questions([pair], [[principle]], pack=pack, judge_model="", way=Way(mode))
        return [Preview(f"{template}, order {question.order}", question.dialogue, missing) for question in asked]
    requests = {name: getattr(principle, name) for name in REQUESTS[template]}
    rendered = pack.render(template, principle.few_shots, conversation=conversation, **filled, **requests)
    return [Preview(template, rendered.dialogue, missing)]


def _principle(constitution: Constitution, principle_id: str | None, template: str) -> Principle:
    ids = [principle.id for principle in constitution.principles]
    if principle_id is None:
        raise ConfigError(f"'{template}' asks under a principle: name one (known: {', '.join(ids)})")
    try:
        principle = constitution.principle(principle_id)
    except KeyError as error:
        raise ConfigError(
            f"{constitution.ref} has no principle '{principle_id}'{nearest(principle_id, ids)}"
        ) from error
    for name in REQUESTS[template]:
        if not getattr(principle, name):
            raise ConfigError(f"'{principle.ref}' has no {name}: '{template}' is never asked under it")
    return principle
