"""Labelled examples put to a judge under one wording of one principle, in both orders.

What `trial` (does the constitution work?) and `wording_trial` (which phrasing works best?) share: how a question is
written down, how it is asked, and what came back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from constitutional.backends import Backend
from constitutional.checks import NO_CHECKS, Check
from constitutional.feedback.gate import labelled_examples
from constitutional.feedback.judge import Known, judge
from constitutional.feedback.label import Opinion, opinions
from constitutional.feedback.label.opinions import side
from constitutional.principles import Constitution, Principle
from constitutional.records import Comparison, Judgment, Record
from constitutional.templates import TemplatePack

ExampleSplit = Literal["tuning", "gate"]
SPLITS: tuple[ExampleSplit, ExampleSplit] = ("tuning", "gate")

_CHUNK = 16  # examples asked at a time: what an interrupted command can lose

Keep = Callable[[Sequence[Judgment]], object]
"""Stores judgments as they come (a ledger's `append`)."""

Progress = Callable[[int, int], object]
"""Told how many of how many examples are done."""


class TriedExample(Record):
    """One of the constitution's own examples as a comparison; `a` is the better answer."""

    comparison: Comparison
    owner: str
    """The principle it is an example of, `id@version`."""
    split: ExampleSplit


@dataclass(frozen=True)
class Probe:
    """An example and the wording of a principle it is judged under."""

    example: TriedExample
    principle: Principle
    wording: str
    request: str
    """Empty where a check judges."""


@dataclass(frozen=True)
class Answered:
    """A probe and what the judge said, order `ab` first; no opinion where one of the two could not be read."""

    probe: Probe
    judgments: tuple[Judgment, Judgment]
    opinion: Opinion | None

    @property
    def verdict(self) -> int:
        """1 for the better answer, -1 for the worse one; 0 for a tie or an answer that could not be read."""
        return 0 if self.opinion is None else side(self.opinion.p_a)


class TriedQuestion(Record):
    """A probe and its two judgments, for a reader who wants to check a figure.

    The judgments' `principle_digest` is that of the principle with `request` in the place of its comparison_request,
    or, of mode `check`, that of the principle and its code; `principle_digest` here is that of the principle as the
    constitution has it.
    """

    comparison_id: str
    principle: str
    principle_digest: str
    wording: str
    request: str
    judgments: tuple[Judgment, Judgment]


def examples_of(constitution: Constitution, limit: int | None = None, *, checks: bool = False) -> list[TriedExample]:
    """The examples of every principle with a comparison_request, at most `limit` of a principle and split.

    `checks` adds those of principles that have only a check to judge by.
    """
    found = []
    for split in SPLITS:
        for item in labelled_examples(constitution, split=split, per_principle=limit, checks=checks):
            found.append(TriedExample(comparison=item.comparison, owner=item.principles[0], split=split))
    return found


@dataclass(frozen=True)
class Asking:
    """Who is asked, how, and what happens to the answers."""

    backend: Backend
    """The judge; must give log-probabilities."""
    pack: TemplatePack
    """Template `judge` and the two options."""
    seed: int = 0
    """Recorded in the judgments; draws what is drawn."""
    known: Known | None = None
    """Judgments stored before, which are not asked again."""
    keep: Keep | None = None
    """Stores the judgments of each chunk when it is done."""
    progress: Progress | None = None
    """Told after every chunk."""
    checks: Mapping[str, Check] = field(default_factory=lambda: NO_CHECKS)
    """The opened checks of principles that are code, by `id@version`; these judge in the backend's place."""


def answer(probes: Sequence[Probe], asking: Asking) -> list[Answered]:
    """Asks every probe in both orders.

    Raises:
        BackendError: the judge gives no log-probabilities.
    """
    found: list[Answered] = []
    for start in range(0, len(probes), _CHUNK):
        chunk = probes[start : start + _CHUNK]
        judgments = list(
            judge(
                [probe.example.comparison for probe in chunk],
                assigned=[[_as_asked(probe, asking)] for probe in chunk],
                backend=asking.backend,
                pack=asking.pack,
                seed=asking.seed,
                known=asking.known,
                checks=asking.checks,
            )
        )
        if asking.keep is not None:
            asking.keep(judgments)
        for probe, ab, ba in zip(chunk, judgments[::2], judgments[1::2], strict=True):
            opinion = opinions((ab, ba)).get(probe.example.comparison.id)
            found.append(Answered(probe, (ab, ba), opinion[0] if opinion else None))
        if asking.progress is not None:
            asking.progress(len(found), len(probes))
    return found


def _as_asked(probe: Probe, asking: Asking) -> Principle:
    return probe.principle if probe.principle.ref in asking.checks else worded(probe.principle, probe.request)


def worded(principle: Principle, request: str) -> Principle:
    """The principle with another comparison_request."""
    return principle.model_copy(update={"comparison_request": request})


def tried(answered: Answered) -> TriedQuestion:
    """The record of what was asked and answered."""
    probe = answered.probe
    return TriedQuestion(
        comparison_id=probe.example.comparison.id,
        principle=probe.principle.ref,
        principle_digest=probe.principle.digest,
        wording=probe.wording,
        request=probe.request,
        judgments=answered.judgments,
    )
