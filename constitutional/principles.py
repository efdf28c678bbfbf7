"""What an author writes: labelled examples, principles, constitutions."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from constitutional.records import Record, short_digest

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$", max_length=80)]
Version = Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+$")]
Phase = Literal["revise", "judge", "evaluate"]

TEXTS = (
    "critique_request",
    "revision_request",
    "comparison_request",
    "negated_comparison_request",
    "paraphrases",
    "score_request",
    "applies_when",
)
"""The fields of a principle that are put to a model."""


class Example(Record):
    """A labelled comparison an author gives. The gate uses `gate` rows; wordings are tuned on the rest."""

    prompt: str
    better: str
    worse: str
    split: Literal["gate", "tuning"] = "gate"


class Change(Record):
    """What a version changed, in the author's words."""

    version: Version
    text: str


class Principle(Record):
    """One rule of a constitution, with everything that reaches a model because of it.

    A principle is written (requests, put to a model), or code (`check`), or both.
    """

    id: Name
    version: Version
    title: str
    critique_request: str | None = None
    revision_request: str | None = None
    comparison_request: str | None = None
    negated_comparison_request: str | None = None
    """Asks for the other answer: a judge that reads the request turns its verdict over."""
    paraphrases: tuple[str, ...] = ()
    """Other wordings of the comparison request, to which a judge should give the same verdict."""
    score_request: str | None = None
    """Asks for a grade of one answer."""
    applies_when: str | None = None
    """Which prompts the principle is about; None is all of them."""
    check: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")] | None = None
    """`package.module:callable`, code that scores an answer."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    tier: Annotated[int, Field(ge=1)] = 1
    """Rank of authority, 1 the highest: a lower tier decides only what the higher ones leave open."""
    tags: tuple[str, ...] = ()
    phases: tuple[Phase, ...] = ("revise", "judge", "evaluate")
    examples: tuple[Example, ...] = ()
    source: str | None = None
    changelog: tuple[Change, ...] = ()
    conflicts: tuple[Name, ...] = ()
    """Ids of principles of the same constitution that the author knows this one to contradict."""
    lint_ignore: tuple[str, ...] = ()
    """Ids of lint rules that the author has thought about and overruled here."""

    @property
    def ref(self) -> str:
        """`id@version`, the name a judgment cites."""
        return f"{self.id}@{self.version}"

    @property
    def texts(self) -> dict[str, Any]:
        """The fields the digest is over, as JSON values: those that are given, without id and version."""
        fields = self.model_dump(mode="json", include={"check", *TEXTS})
        return {name: value for name, value in fields.items() if value is not None and value != []}

    @property
    def digest(self) -> str:
        """Changes when, and only when, a text that reaches a model (or the check that stands for one) changes."""
        texts = self.model_dump(mode="json", include={"id", "version", "check", *TEXTS}, exclude_none=True)
        return short_digest(texts)


class Constitution(Record):
    """A named, versioned set of principles."""

    id: Name
    version: Version
    title: str
    source: str | None = None
    template_pack: str = "chat"
    tags: dict[str, str] = Field(default={})
    """What the constitution means to cover: tag, description. With none declared a principle may carry any tag."""
    principles: Annotated[tuple[Principle, ...], Field(min_length=1)]

    @property
    def ref(self) -> str:
        """`id@version`."""
        return f"{self.id}@{self.version}"

    @property
    def digest(self) -> str:
        """Digest over every field, examples included."""
        return short_digest(self.model_dump(mode="json"))

    def principle(self, ref: str) -> Principle:
        """The principle called `ref` (`id` or `id@version`).

        Raises:
            KeyError: no such principle.
        """
        for principle in self.principles:
            if ref in (principle.id, principle.ref):
                return principle
        raise KeyError(ref)
