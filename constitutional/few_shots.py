"""Few-shots: worked examples of what a model is asked, shown to it before the question itself.

An author may give them for a constitution, or for one principle of it, whose own then take their place; a template pack
brings some for the case that nobody does. Which they are is settled kind by kind: `revision`, `comparison`.

A shot is put by the very template that puts the question, filled with the shot's texts and with its answer behind. So
it looks like the question in every pack, and its texts are values like all others: data, never a template.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from constitutional.records import Dialogue, Message, Record, assistant

MAX_SHOTS = 32

Kind = Literal["revision", "comparison"]
Text = Annotated[str, Field(pattern=r"\S")]
"""A text that is not blank."""

KIND_OF: dict[str, Kind] = {
    "critique": "revision",
    "revise": "revision",
    "revise_direct": "revision",
    "judge": "comparison",
    "judge_cot": "comparison",
    "vote": "comparison",
}
"""The kind of shots a template shows; those of other templates show none."""


class Turn(Record):
    """One turn of the conversation of a shot."""

    role: Literal["user", "assistant"]
    content: Text


def _ends_with_the_user(turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
    if turns[-1].role != "user":
        raise ValueError("the conversation of a few-shot ends with a user turn")
    return turns


Conversation = Annotated[tuple[Turn, ...], Field(min_length=1), AfterValidator(_ends_with_the_user)]


class RevisionShot(Record):
    """An answer, what is wrong with it, and the answer given anew."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    conversation: Conversation
    """What was said before the answer; a user turn is the last."""
    answer: Text
    """The answer that is criticised."""
    critique_request: Text | None = None
    """What was asked about it; None: what the principle at hand asks."""
    critique: Text
    """What is wrong with it. One that begins with a space continues the template's opening."""
    revision_request: Text | None = None
    """How a new answer was asked for; None: as the principle at hand does."""
    revision: Text
    """The new answer."""
    turn_follows: bool = True
    """Whether the transcript it came from goes on to a next human turn. For an exact export; no model sees it."""


class ComparisonShot(Record):
    """Two answers of which one is better. It stands first in the first shot, second in the second, and so on."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    conversation: Conversation
    """What was said before the answers; a user turn is the last."""
    better: Text
    """The better answer."""
    worse: Text
    """The other one."""
    comparison_request: Text | None = None
    """What was asked about them; None: what the principle at hand asks, or one that a recipe draws."""
    reasoning: Text | None = None
    """What is thought before the verdict. A judge that reasons first is shown only the shots that have one."""

    @model_serializer(mode="wrap")
    def _without_absent_reasoning(self, handler: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Shots without a reasoning are written, and digested, as they were before there were any."""
        fields: dict[str, object] = handler(self)
        if self.reasoning is None:
            fields.pop("reasoning", None)
        return fields

    @model_validator(mode="after")
    def _differ(self) -> Self:
        if self.better.strip() == self.worse.strip():
            raise ValueError("'better' and 'worse' are the same text: nothing to show")
        return self


class FewShots(Record):
    """Worked examples, by what they are examples of."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    revision: Annotated[tuple[RevisionShot, ...], Field(max_length=MAX_SHOTS)] = ()
    """Shown before critiques and revisions are asked for."""
    comparison: Annotated[tuple[ComparisonShot, ...], Field(max_length=MAX_SHOTS)] = ()
    """Shown before a judge is asked."""

    def under(self, closer: FewShots | None) -> FewShots:
        """These, with the kinds that `closer` has shots of taken from there."""
        if closer is None:
            return self
        return FewShots(revision=closer.revision or self.revision, comparison=closer.comparison or self.comparison)

    def texts(self, kind: Kind | None = None) -> dict[str, Any]:
        """What reaches a model, as JSON values: of one kind, or of both; empty where there are none."""
        kinds: set[str] = {kind} if kind else set(FewShots.model_fields)
        given = self.model_dump(mode="json", exclude_none=True, include=kinds)
        for shot in given.get("revision", []):
            del shot["turn_follows"]
        return {name: shots for name, shots in given.items() if shots}


NO_SHOTS = FewShots()


def worked(
    template: str, few_shots: FewShots, asked: Mapping[str, str | Dialogue], options: tuple[str, str], conclusion: str
) -> Iterator[tuple[dict[str, str | Dialogue], str]]:
    """The shots of a template: the values that put each as a question, and the answer to it.

    Args:
        template: a name of a pack's template.
        few_shots: those in effect.
        asked: the values of the question itself, for requests that a shot leaves open.
        options: the judge's two continuations.
        conclusion: what stands between a reasoning and the option.
    """
    kind = KIND_OF.get(template)
    for index, shot in enumerate(few_shots.comparison if kind == "comparison" else ()):
        first, second = (shot.better, shot.worse) if index % 2 == 0 else (shot.worse, shot.better)
        texts = {"a": first, "b": second, "comparison_request": shot.comparison_request}
        verdict = options[index % 2].strip() if template == "vote" else options[index % 2]
        if template == "judge_cot" and shot.reasoning is None:
            continue
        thought = f" {shot.reasoning.strip()}{conclusion}" if template == "judge_cot" and shot.reasoning else ""
        yield _filled(asked, shot, texts), thought + verdict
    for shown in few_shots.revision if kind == "revision" else ():
        texts = {"answer": shown.answer, "critique": shown.critique}
        texts |= {"critique_request": shown.critique_request, "revision_request": shown.revision_request}
        yield _filled(asked, shown, texts), shown.critique if template == "critique" else shown.revision


def _filled(
    asked: Mapping[str, str | Dialogue], shot: RevisionShot | ComparisonShot, texts: Mapping[str, str | None]
) -> dict[str, str | Dialogue]:
    conversation = tuple(Message(role=turn.role, content=turn.content) for turn in shot.conversation)
    return {**asked, "conversation": conversation, **{name: text for name, text in texts.items() if text is not None}}


def before_text(question: str, shown: Sequence[tuple[str, str]]) -> str:
    """A raw text with its shots before it: each a text and what continues it, a blank line between."""
    text = ""
    for shot, answer in shown:
        text = _after_blank_line(text, shot) + ("" if answer.startswith(" ") else " ") + answer
    return _after_blank_line(text, question)


def _after_blank_line(before: str, text: str) -> str:
    return before + text if not before or text.startswith("\n\n") else f"{before}\n\n{text}"


def before_turns(question: Dialogue, shown: Sequence[tuple[Dialogue, str, str]], template: str) -> Dialogue:
    """A dialogue with its shots before it, after its system messages.

    Args:
        question: the dialogue.
        shown: each shot's dialogue, the opening (prefill) at its end, and the answer.
        template: what is asked. A verdict continues the opening; a text does where it begins with a space.
    """
    begin = _system_turns(question)
    turns: list[Message] = []
    for dialogue, opening, answer in shown:
        asked = dialogue[_system_turns(dialogue) : len(dialogue) - bool(opening)]
        continues = KIND_OF[template] == "comparison" or answer.startswith(" ")
        turns += [*asked, assistant(opening + answer if continues else answer)]
    return (*question[:begin], *turns, *question[begin:])


def _system_turns(dialogue: Dialogue) -> int:
    return next((i for i, message in enumerate(dialogue) if message.role != "system"), len(dialogue))
