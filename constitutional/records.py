"""What exists: frozen records, content ids, canonical JSON.

Every record is immutable, forbids unknown fields and names its parents by id. An `id` is the sha256 of the record's
canonical JSON without the id itself, shortened to 16 hex digits, so equal content has equal ids on every machine.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

Role = Literal["system", "user", "assistant"]
PromptKind = Literal["red_team", "helpful", "benign"]
Split = Literal["train", "heldout"]
Order = Literal["ab", "ba"]
Outcome = Literal["preference", "tie", "not_applicable", "refused", "invalid", "error"]
FinishReason = Literal["stop", "length"]
Origin = Literal["sampled", "revision", "human", "contrast", "example", "evaluation", "negation"]
Mode = Literal["logprob", "cot", "vote", "score", "model"]
"""How a judge is asked; what the modes are stands in `feedback.judging`."""


def canonical_json(value: object) -> str:
    """JSON with sorted keys, no spaces and no escapes: one text for one value."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def digest(value: object) -> str:
    """The full sha256 (64 hex digits) of a JSON value's canonical text."""
    return hashlib.sha256(canonical_json(value).encode("utf-8", "surrogatepass")).hexdigest()


def short_digest(value: object) -> str:
    """The first 16 hex digits of `digest`: the form of every id."""
    return digest(value)[:16]


def seed_for(seed: int, *parts: str | int) -> int:
    """A 63-bit seed that depends on the run's seed and on what it is for, and on nothing else."""
    return int(digest([seed, *parts])[:16], 16) >> 1


class Record(BaseModel):
    """Base of all records: immutable, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def to_json(self) -> str:
        """One canonical JSON line (without the newline)."""
        return canonical_json(self.model_dump(mode="json"))


class Identified(Record):
    """A record with a content id, computed when it is not given and checked when it is."""

    id: str = ""

    @model_validator(mode="after")
    def _fill_id(self) -> Self:
        expected = short_digest(self.identity())
        if not self.id:
            object.__setattr__(self, "id", expected)
        elif self.id != expected:
            raise ValueError(f"id {self.id} does not match the content (expected {expected})")
        return self

    def identity(self) -> Mapping[str, object]:
        """The JSON value the id is computed from: everything but the id."""
        return self.model_dump(mode="json", exclude={"id"})


class Message(Record):
    """One turn of a conversation."""

    role: Role
    content: str


Dialogue = tuple[Message, ...]
"""A conversation; a trailing assistant message is a prefill that the model continues."""


def user(content: str) -> Message:
    """A user turn."""
    return Message(role="user", content=content)


def assistant(content: str) -> Message:
    """An assistant turn (or, at the end of a dialogue, a prefill)."""
    return Message(role="assistant", content=content)


class Prompt(Identified):
    """What a user, or a red-teamer, said: a conversation that ends with a user turn."""

    messages: Dialogue
    kind: PromptKind
    source: str
    split: Split
    tags: tuple[str, ...] = ()


class Sampling(Record):
    """How text is drawn from a model. `temperature` 0 is greedy. `seed` fixes the draw of one call."""

    temperature: Annotated[float, Field(ge=0)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    repetition_penalty: Annotated[float, Field(ge=1)] = 1.0
    max_tokens: Annotated[int, Field(gt=0)] = 128
    stop: tuple[str, ...] = ()
    seed: int = 0


class Usage(Record):
    """What one call cost. Tokens computed anew, not those read from a cache."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


class Completion(Record):
    """One generated text. `seconds` is the batch's wall time shared evenly; it is never hashed."""

    text: str
    model: str
    sampling: Sampling
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    seconds: float


class Answer(Identified):
    """One policy answer to a prompt, as drawn by `sample` or `evaluate`."""

    prompt_id: str
    model: str
    text: str
    finish_reason: FinishReason
    index: int = 0
    seed: int
    usage: Usage


UNREVISED = frozenset({"not_needed", "not_applicable"})
"""Flags of a round in which nothing was written: the principle's check passes the answer, or says nothing of it."""


class RevisionRound(Record):
    """One critique and revision under one principle."""

    principle: str
    principle_digest: str
    critique: str | None
    revision: str
    flags: tuple[str, ...]
    candidate: int
    critique_seed: int | None
    revision_seed: int | None
    usage: Usage
    """Of the critique and of every draft, the ones not taken included."""
    check_score: float | None = None
    """What the principle's check said of the answer before; None without a check, or where it does not apply."""

    @property
    def unrevised(self) -> bool:
        """True when the check saw no need of a revision: `revision` is the answer as it was."""
        return not UNREVISED.isdisjoint(self.flags)

    @model_serializer(mode="wrap")
    def _without_absent_score(self, handler: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Rounds without a check are written, and digested, as they were before there were checks."""
        fields: dict[str, object] = handler(self)
        if self.check_score is None:
            fields.pop("check_score", None)
        return fields


class Revision(Identified):
    """A prompt's first answer and what critique and revision made of it, all rounds kept."""

    prompt_id: str
    initial: str
    initial_finish: FinishReason
    initial_usage: Usage
    rounds: tuple[RevisionRound, ...]
    policy: str
    critic: str
    template_digests: tuple[str, ...]
    seed: int

    @property
    def final(self) -> str:
        """The last revision; the first answer where no principle applied."""
        return self.rounds[-1].revision if self.rounds else self.initial

    @property
    def revised(self) -> tuple[RevisionRound, ...]:
        """The rounds in which a revision was written: all of them where no principle is code."""
        return tuple(step for step in self.rounds if not step.unrevised)

    @property
    def usable(self) -> bool:
        """True when a revision was written and the last one carries no artefact flag."""
        return bool(self.revised) and not self.revised[-1].flags


class Comparison(Identified):
    """Two answers to one prompt. `parents` names the records the answers came from, where there are any."""

    prompt_id: str
    messages: Dialogue
    a: str
    b: str
    a_model: str | None = None
    b_model: str | None = None
    origin: Origin
    parents: tuple[str, ...] = ()
    a_seed: int | None = None
    b_seed: int | None = None
    """Seeds the answers were drawn with, where they were drawn."""
    principle: str | None = None
    """Of origin `negation`: `id@version` of the principle that `a` was asked to fit, and `b` to go against."""

    @model_serializer(mode="wrap")
    def _without_absent_principle(self, handler: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Comparisons of other origins are written, and digested, as they were before there were such pairs."""
        fields: dict[str, object] = handler(self)
        if self.principle is None:
            fields.pop("principle", None)
        return fields


class HumanLabel(Record):
    """Which answer of a comparison a person preferred. `source` names who, or the file that says so."""

    comparison_id: str
    preferred: Literal["a", "b", "tie"]
    source: str


class Said(Record):
    """What a judge said to whether a principle applies, as a judgment (in `raw`) or a grade that rests on it keeps."""

    p: float | None
    template: str
    judge: str
    logprobs: tuple[float, ...]
    mass: float | None


class JudgmentSample(Record):
    """One text a judge drew for a question: a reasoning before its verdict (mode `cot`), or a verdict (`vote`)."""

    text: str
    finish_reason: FinishReason | None
    """None where nothing was drawn: the question did not fit the judge's context."""
    outcome: Outcome
    p_a: Annotated[float, Field(ge=0, le=1)] | None
    logprobs: tuple[float, ...] = ()
    """Of the two options after the reasoning."""
    mass: float | None = None
    seed: int
    """Of the draw; the text depends on what else was drawn in the same batch, too."""


class Judgment(Identified):
    """What one judge said of one comparison under one principle in one order.

    `key` is the digest of the question (what resume looks up), `id` of the answer (what an audit cites). `p_a` is
    always in the comparison's own frame, already un-swapped.
    """

    key: str
    comparison_id: str
    principle: str
    principle_digest: str
    template_digest: str
    judge: str
    mode: Mode | Literal["check", "applies"]
    order: Order
    outcome: Outcome
    p_a: Annotated[float, Field(ge=0, le=1)] | None
    logprobs: tuple[float, ...]
    mass: float | None
    raw: str | None = None
    usage: Usage
    seed: int
    samples: tuple[JudgmentSample, ...] = ()
    """What was drawn, of the modes that draw; those without a verdict are among them."""

    @model_serializer(mode="wrap")
    def _without_absent_samples(self, handler: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Judgments for which nothing is drawn are written, and digested, as they were before any was."""
        fields: dict[str, object] = handler(self)
        if not self.samples:
            fields.pop("samples", None)
        return fields


class Preference(Identified):
    """A soft label: the probability that `a` is the better answer, and the judgments it was made from."""

    comparison_id: str
    p_a: Annotated[float, Field(ge=0, le=1)] | None
    rule: str
    judgment_ids: tuple[str, ...]
    principles: tuple[str, ...]
    agreement: float | None = None
    abstained: str | None = None

    @property
    def a_chosen(self) -> bool:
        """True when `a` is at least as probable as `b`."""
        return self.p_a is not None and self.p_a >= 0.5


class Failure(Record):
    """A bad item in good input: counted, shown, never turned into a number."""

    item_id: str
    stage: str
    kind: str
    message: str
