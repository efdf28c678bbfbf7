"""Few-shots of other formats as those of a constitution, and back; what has no form in either is told, never dropped.

A shot is taken apart only where putting it together again gives the very same text: what is held is held byte for byte.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from constitutional.few_shots import MAX_SHOTS, ComparisonShot, FewShots, RevisionShot, Turn
from constitutional.interop.shots import FewShot, LabelledShot
from constitutional.records import Dialogue, Message, Role, assistant, user

Lost = list[str]
_Shot = TypeVar("_Shot", RevisionShot, ComparisonShot)
_Form = TypeVar("_Form", str, Dialogue, LabelledShot)

_LABELS: dict[Role, str] = {"user": "Human", "assistant": "Assistant"}
_MARK = re.compile("\n\n(Human|Assistant|CritiqueRequest|Critique|RevisionRequest|Revision): ")
_STEPS = ["Assistant", "CritiqueRequest", "Critique", "RevisionRequest", "Revision"]
_NEXT_TURN = "\n\nHuman:"
_ANSWER = "\n\nAssistant:"


def held(shots: Sequence[FewShot]) -> tuple[FewShots, Lost]:
    """Shots of a format as a constitution's, and a line for each that has no form there."""
    revisions: list[RevisionShot] = []
    comparisons: list[ComparisonShot] = []
    lost: Lost = []
    for index, shot in enumerate(shots):
        found = _read(shot)
        if found is None:
            lost.append(f"few-shot {index}: not of the form that a constitution's few-shots have")
        elif len(revisions if isinstance(found, RevisionShot) else comparisons) == MAX_SHOTS:
            lost.append(f"few-shot {index}: beyond the {MAX_SHOTS} of a kind that a constitution holds")
        elif isinstance(found, RevisionShot):
            revisions.append(found)
        else:
            comparisons.append(found)
    return FewShots(revision=tuple(revisions), comparison=tuple(comparisons)), lost


def as_transcripts(few_shots: FewShots) -> tuple[tuple[str, ...], Lost]:
    """The revision shots as the paper's transcripts, and a line for what is none."""
    return _written("revision", few_shots.revision, _transcript, len(few_shots.comparison))


def as_conversations(few_shots: FewShots) -> tuple[tuple[Dialogue, ...], Lost]:
    """The revision shots as conversations, and a line for what is none."""
    return _written("revision", few_shots.revision, _conversation, len(few_shots.comparison))


def as_labelled(few_shots: FewShots) -> tuple[tuple[LabelledShot, ...], Lost]:
    """The comparison shots as the paper's labelled questions, and a line for what is none."""
    return _written("comparison", few_shots.comparison, _labelled, len(few_shots.revision))


def _written(
    kind: str, shots: Sequence[_Shot], write: Callable[[_Shot], _Form | None], others: int
) -> tuple[tuple[_Form, ...], Lost]:
    """What `write` makes of the shots; it makes None of one that says what the format has no place for."""
    done = [(index, write(shot)) for index, shot in enumerate(shots)]
    lost = [f"few_shots.{kind}.{index}: the format has no form for it" for index, shot in done if shot is None]
    lost += [f"few_shots: {others} of another kind than the format's"] if others else []
    return tuple(shot for _, shot in done if shot is not None), lost


def _read(shot: FewShot) -> RevisionShot | ComparisonShot | None:
    """The shot, if writing it gives back what was read."""
    try:
        if isinstance(shot, LabelledShot):
            comparison = _read_labelled(shot)
            return comparison if _labelled(comparison) == shot else None
        revision = _read_transcript(shot) if isinstance(shot, str) else _read_conversation(shot)
        again: FewShot | None = _transcript(revision) if isinstance(shot, str) else _conversation(revision)
        return revision if again == shot else None
    except ValueError:  # other parts than these, or a blank one
        return None


def _read_transcript(text: str) -> RevisionShot:
    _, *parts = _MARK.split(text.removesuffix(_NEXT_TURN))
    names, texts = parts[::2], parts[1::2]
    if names[-5:] != _STEPS:
        raise ValueError
    answer, critique_request, critique, revision_request, revision = texts[-5:]
    return RevisionShot(
        conversation=_turns(zip(names[:-5], texts[:-5], strict=True)),
        answer=answer,
        critique_request=critique_request,
        critique=critique,
        revision_request=revision_request,
        revision=revision,
        turn_follows=text.endswith(_NEXT_TURN),
    )


def _transcript(shot: RevisionShot) -> str | None:
    if shot.critique_request is None or shot.revision_request is None:
        return None
    texts = (shot.answer, shot.critique_request, shot.critique, shot.revision_request, shot.revision)
    steps = "".join(f"\n\n{name}: {text}" for name, text in zip(_STEPS, texts, strict=True))
    return _spoken(shot.conversation) + steps + (_NEXT_TURN if shot.turn_follows else "")


def _read_labelled(shot: LabelledShot) -> ComparisonShot:
    if len(shot.corrects) != 1 or len(shot.incorrects) != 1:
        raise ValueError
    _, *parts = _MARK.split(shot.prompt.removesuffix(_ANSWER))
    turns = _turns(zip(parts[::2], parts[1::2], strict=True))
    return ComparisonShot(conversation=turns, better=shot.corrects[0], worse=shot.incorrects[0])


def _labelled(shot: ComparisonShot) -> LabelledShot | None:
    if shot.comparison_request is not None:
        return None
    prompt = _spoken(shot.conversation) + _ANSWER
    return LabelledShot(prompt=prompt, corrects=(shot.better,), incorrects=(shot.worse,))


def _read_conversation(dialogue: Dialogue) -> RevisionShot:
    *turns, answer, critique_request, critique, revision_request, revision = (m.content for m in dialogue)
    said = dialogue[: len(turns)]
    return RevisionShot(
        conversation=tuple(Turn.model_validate(message.model_dump()) for message in said),
        answer=answer,
        critique_request=critique_request,
        critique=critique,
        revision_request=revision_request,
        revision=revision,
    )


def _conversation(shot: RevisionShot) -> Dialogue | None:
    if shot.critique_request is None or shot.revision_request is None:
        return None
    said = tuple(Message(role=turn.role, content=turn.content) for turn in shot.conversation)
    criticised = (assistant(shot.answer), user(shot.critique_request), assistant(shot.critique))
    return (*said, *criticised, user(shot.revision_request), assistant(shot.revision))


def _turns(parts: Iterable[tuple[str, str]]) -> tuple[Turn, ...]:
    roles = {label: role for role, label in _LABELS.items()}
    return tuple(Turn.model_validate({"role": roles.get(name), "content": text}) for name, text in parts)


def _spoken(turns: Sequence[Turn]) -> str:
    return "".join(f"\n\n{_LABELS[turn.role]}: {turn.content}" for turn in turns)
