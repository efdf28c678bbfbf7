"""Perplexity on held-out helpful answers: what a trained model still knows of what the start model would say.

A token is one of the start model's, so that two models are compared over the same text cut the same way.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from constitutional.backends import Backend
from constitutional.records import Dialogue, Failure, Identified, Record, assistant
from constitutional.statistics import Interval, cluster_bootstrap
from constitutional.statistics.clustered import ratios
from constitutional.templates import TemplatePack

START = "start"
"""The system that the others are compared with."""


class ReferenceAnswer(Identified):
    """A helpful answer that no model is trained on; `source` is the file, or the model, it is from."""

    messages: Dialogue
    text: str
    source: str


class ReferenceScore(Record):
    """What one model makes of one reference answer: its log-probability in nats, over so many tokens."""

    reference_id: str
    system: str
    model: str
    tokens: int
    logprob: float


class Perplexity(Record):
    """One model on the reference answers that both it and the start model could score.

    `ratio` is its perplexity over the start model's on the same answers, with a 95 % interval over answers (bootstrap
    of whole answers; None with fewer than two); above 1 it finds them less likely than before. `unusable` answers were
    too long for one of the two.
    """

    system: str
    n: int
    tokens: int
    perplexity: float
    start: float
    ratio: float
    interval: Interval | None
    unusable: int


def score_references(
    references: Sequence[ReferenceAnswer], *, system: str, backend: Backend, start: Backend, pack: TemplatePack
) -> Iterator[ReferenceScore | Failure]:
    """One model's log-probability of each answer, or a Failure (`too_long`, `empty`).

    Args:
        references: one chunk of answers.
        system: what the model is called.
        backend: the model.
        start: counts the tokens.
        pack: template `respond`.

    Raises:
        BackendError: the engine gives no log-probabilities.
    """
    asked = [pack.render("respond", conversation=one.messages).dialogue for one in references]
    tokens = [
        start.room(dialogue) - start.room(_answered(dialogue, one.text)) if one.text.strip() else 0
        for dialogue, one in zip(asked, references, strict=True)
    ]
    rows = [i for i, dialogue in enumerate(asked) if tokens[i] > 0 and backend.room(dialogue) >= 0]
    said = backend.loglikelihood([asked[i] for i in rows], [[references[i].text] for i in rows]) if rows else []
    found = {i: one.logprobs[0] for i, one in zip(rows, said, strict=True)}
    for i, one in enumerate(references):
        logprob = found.get(i, math.nan)
        if math.isfinite(logprob):
            yield ReferenceScore(
                reference_id=one.id, system=system, model=backend.model, tokens=tokens[i], logprob=logprob
            )
        else:
            kind = "too_long" if tokens[i] > 0 else "empty"
            yield Failure(item_id=one.id, stage="perplexity", kind=kind, message=f"{system}: {tokens[i]} tokens")


def _answered(dialogue: Dialogue, text: str) -> Dialogue:
    """The dialogue with an answer behind it; a raw text (of a base model) goes on."""
    if dialogue[-1].role != "assistant":
        return (*dialogue, assistant(text))
    return (*dialogue[:-1], assistant(dialogue[-1].content + text))


def perplexities(scores: Iterable[ReferenceScore], references: int) -> tuple[Perplexity, ...]:
    """The figures of each system but the start model, in the order they first appear; paired by answer.

    Args:
        scores: of all systems, the start model's among them.
        references: how many answers there were.
    """
    import numpy as np

    by_system: dict[str, dict[str, ReferenceScore]] = {}
    for score in scores:
        by_system.setdefault(score.system, {})[score.reference_id] = score
    start = by_system.pop(START, {})
    found = []
    for system, own in by_system.items():
        both = [(own[key], start[key]) for key in own if key in start]
        if not both:
            continue
        logprobs = np.array([[one.logprob, other.logprob] for one, other in both])
        tokens = np.array([other.tokens for _, other in both], dtype=float)
        means = -logprobs.sum(axis=0) / tokens.sum()
        columns = np.stack([logprobs[:, 1] - logprobs[:, 0], tokens], axis=1)
        (spread,) = cluster_bootstrap(columns, None, ratios)
        found.append(
            Perplexity(
                system=system,
                n=len(both),
                tokens=int(tokens.sum()),
                perplexity=math.exp(means[0]),
                start=math.exp(means[1]),
                ratio=math.exp(means[0] - means[1]),
                interval=spread and Interval(low=math.exp(spread.low), high=math.exp(spread.high)),
                unusable=references - len(both),
            )
        )
    return tuple(found)
