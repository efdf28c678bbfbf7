"""What an author writes: labelled examples, principles, constitutions."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from constitutional.few_shots import FewShots, Kind
from constitutional.records import Record, short_digest

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$", max_length=80)]
Version = Annotated[str, Field(pattern=r"^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)$")]
Phase = Literal["revise", "judge", "evaluate"]
CHECK = r"^([A-Za-z_][\w.]*:[A-Za-z_]\w*|[A-Za-z0-9][\w.-]*)$"
"""How a check is named: `package.module:callable`, or the name of an entry point."""

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

    model_config = ConfigDict(use_attribute_docstrings=True)  # the schema tells editors what a field is for

    id: Name
    """A short name that stays; records cite `id@version`."""
    version: Version
    """Raised whenever a text changes that reaches a model."""
    title: str
    """What the principle is about, for people."""
    critique_request: str | None = None
    """Asks what is wrong with the answer just given."""
    revision_request: str | None = None
    """Asks for a new answer."""
    comparison_request: str | None = None
    """Asks which of two answers is the better one."""
    negated_comparison_request: str | None = None
    """Asks for the other answer: a judge that reads the request turns its verdict over."""
    paraphrases: tuple[str, ...] = ()
    """Other wordings of the comparison request, to which a judge should give the same verdict."""
    score_request: str | None = None
    """Asks for a grade of one answer."""
    applies_when: str | None = None
    """Which prompts the principle is about; None is all of them.

    The judge is asked of each prompt before the principle revises or judges an answer to it.
    """
    check: Annotated[str, Field(pattern=CHECK)] | None = None
    """Code that scores an answer: `package.module:callable`, or a name an installed package registered for it.

    It decides whether an answer needs a revision, judges comparisons in the place of `comparison_request`, and the
    evaluation counts the answers that pass it.
    """
    weight: Annotated[float, Field(gt=0, le=1e9)] = 1.0
    """Its share in the label rule `weighted`."""
    tier: Annotated[int, Field(ge=1)] = 1
    """Rank of authority, 1 the highest; in the label rule `tiers` a lower tier decides what higher ones leave open."""
    tags: tuple[str, ...] = ()
    """What it covers."""
    phases: Annotated[tuple[Phase, ...], Field(min_length=1)] = ("revise", "judge", "evaluate")
    """Where it takes part."""
    examples: tuple[Example, ...] = ()
    """Labelled comparisons; the gate measures a judge on them."""
    few_shots: FewShots | None = None
    """Worked examples shown before what it asks; in place of the constitution's, and of the template pack's."""
    source: str | None = None
    """Where the wording comes from, and under which licence."""
    changelog: tuple[Change, ...] = ()
    """What each version changed, the newest first."""
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
        fields["few_shots"] = self.few_shots.texts() if self.few_shots else {}
        return {name: value for name, value in fields.items() if value is not None and value not in ([], {})}

    def shown(self, kind: Kind) -> list[dict[str, Any]]:
        """Its own few-shots of one kind as JSON values, for keys that name what a model was asked: none, no entry."""
        texts = self.few_shots.texts(kind) if self.few_shots else {}
        return [texts] if texts else []

    @property
    def digest(self) -> str:
        """Changes when, and only when, a text that reaches a model (or the check that stands for one) changes."""
        return short_digest({"id": self.id, "version": self.version, **self.texts})


class Constitution(Record):
    """A named, versioned set of principles."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    id: Name
    """A short name for the whole."""
    version: Version
    """Raised when a principle comes, goes or changes."""
    title: str
    """What it is for, for people."""
    source: str | None = None
    """Where it comes from, and under which licence."""
    template_pack: str = "chat"
    """The prompt templates it was written for."""
    tags: dict[str, str] = Field(default={})
    """What the constitution means to cover: tag, description; those of extended files count, too. With none declared a
    principle may carry any tag."""
    few_shots: FewShots | None = None
    """Worked examples shown before every question of a kind; in place of the template pack's."""
    principles: Annotated[tuple[Principle, ...], Field(min_length=1)]

    @property
    def ref(self) -> str:
        """`id@version`."""
        return f"{self.id}@{self.version}"

    @property
    def digest(self) -> str:
        """Digest over every field, examples included; few-shots that are not given leave it as it was without them."""
        fields = self.model_dump(mode="json")
        for record in (fields, *fields["principles"]):
            if record["few_shots"] is None:
                del record["few_shots"]
        return short_digest(fields)

    def principle(self, ref: str) -> Principle:
        """The principle called `ref` (`id` or `id@version`).

        Raises:
            KeyError: no such principle.
        """
        for principle in self.principles:
            if ref in (principle.id, principle.ref):
                return principle
        raise KeyError(ref)
