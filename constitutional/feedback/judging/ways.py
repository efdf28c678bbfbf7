"""A way of asking a judge, the question it asks, and what came back."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from constitutional.backends import Backend
from constitutional.checks import Check
from constitutional.few_shots import FewShots
from constitutional.principles import Principle
from constitutional.records import (
    Comparison,
    Dialogue,
    JudgmentSample,
    Mode,
    Order,
    Outcome,
    Sampling,
    Usage,
    seed_for,
)
from constitutional.templates import TemplatePack

TEMPLATE_OF: dict[Mode, str] = {"logprob": "judge", "cot": "judge_cot", "vote": "vote", "score": "score"}
"""The template a mode asks with; a preference model is asked with none."""

DRAWING: tuple[Mode, ...] = ("cot", "vote")
"""The modes that draw texts."""

SAMPLES: dict[Mode, int] = {"cot": 1, "vote": 5}
"""Samples an order where a recipe does not say."""

TOO_LONG = "too long for the judge's context"


class Scorer(Protocol):
    """What the mode `model` needs of a preference model: differences of scores are log-odds of preference."""

    model: str

    def score(self, dialogues: Sequence[Dialogue]) -> list[float]:
        """One score a dialogue, in order; each ends with the answer that is scored."""
        ...


Judge = Backend | Scorer


@dataclass(frozen=True)
class Way:
    """How a judge is asked."""

    mode: Mode = "logprob"
    samples: int = 1
    """Texts drawn for every order, of the modes that draw."""
    sampling: Sampling | None = None
    """How they are drawn, the run's seed included; the modes that draw need it."""
    shot_requests: tuple[str, ...] = ()
    """What few-shots that bring no request of their own are asked under: each draws one of these independently (Bai et
    al. 2022, section 4.1). Empty: all are asked what the question asks."""
    seed: int = 0
    """Of these draws."""

    @property
    def request(self) -> str:
        """The field of a principle that is put to the judge."""
        return "score_request" if self.mode == "score" else "comparison_request"

    def template_digest(self, pack: TemplatePack) -> str:
        """Digest of the template asked with; empty where there is none."""
        return pack.digest(TEMPLATE_OF[self.mode]) if self.mode in TEMPLATE_OF else ""

    def key(self) -> list[object]:
        """What the answers depend on besides judge, template and principle; nothing for `logprob`."""
        if self.mode not in DRAWING or self.sampling is None:
            return []
        return [{"samples": self.samples, "sampling": self.sampling.model_dump(mode="json")}]

    def settings(self) -> dict[str, object]:
        """What the key of a stage holds of it; nothing where a judge is asked in the first, plain way."""
        parts: dict[str, object] = {} if self.mode == "logprob" else {"mode": self.mode}
        parts |= {"drawn": self.key()} if self.key() else {}
        return parts | ({"shot_requests": list(self.shot_requests)} if self.shot_requests else {})

    def shots(self, shown: FewShots, comparison_id: str, ref: str) -> FewShots:
        """Few-shots as they are shown with one question: the same in both orders."""
        if not self.shot_requests:
            return shown
        drawn = [
            random.Random(seed_for(self.seed, "shot", comparison_id, ref, i)).choice(self.shot_requests)
            for i in range(len(shown.comparison))
        ]
        asked = tuple(
            shot if shot.comparison_request else shot.model_copy(update={"comparison_request": request})
            for shot, request in zip(shown.comparison, drawn, strict=True)
        )
        return shown.model_copy(update={"comparison": asked})


PLAIN = Way()
"""By the log-probabilities of the options."""


@dataclass(frozen=True)
class Question:
    """One thing to ask the judge, or a check in its place; `key` is its digest."""

    comparison: Comparison
    principle: Principle
    order: Order
    dialogue: Dialogue
    """Empty where no single text asks it: of a check, of a preference model, and where answers are graded alone."""
    key: str
    check: Check | None = None
    conditional: bool = False
    """The judge is asked first whether the principle applies."""

    @property
    def case(self) -> tuple[str, str]:
        """What is asked then: of which prompt, and of which principle."""
        return self.comparison.prompt_id, self.principle.ref

    def turned(self, p_first: float | None) -> float | None:
        """The probability of `a` from that of the answer shown first."""
        return p_first if p_first is None or self.order == "ab" else 1 - p_first


@dataclass(frozen=True)
class Told:
    """What a judge said to one question."""

    outcome: Outcome
    p_a: float | None
    logprobs: tuple[float, ...] = ()
    mass: float | None = None
    samples: tuple[JudgmentSample, ...] = ()
    usage: Usage = field(default_factory=Usage)
    said: Mapping[str, object] = field(default_factory=dict)
    """Kept in the judgment's `raw`."""
    error: str | None = None


def fits(backend: Backend, dialogue: Dialogue, tokens: int) -> bool:
    """Whether a dialogue leaves room for an answer of so many tokens."""
    return backend.room(dialogue) >= tokens
