"""Which principles a conversation calls for: `applies_when` put to the judge as a yes-or-no question.

The question is asked of the conversation alone, before any answer to it, so one verdict holds for every answer. A
principle without `applies_when` applies to all and is never asked. A verdict that could not be read is a record without
a probability: neither "applies" nor "does not".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from constitutional.backends import Backend, Likelihood
from constitutional.feedback.options import OPTION_TOKENS, option_probability
from constitutional.principles import Principle
from constitutional.records import Dialogue, Failure, Identified, Record, Said, Usage, digest
from constitutional.templates import TemplatePack

APPLIES = 0.5
"""From this probability on a principle applies: a tie is no reason to leave a principle out."""

Known = Callable[[Sequence[str]], Mapping[str, "Applicability"]]
"""Looks up verdicts given before by key."""


class CaseRow(Record):
    """The judge against the cases of one principle that its author wrote: how many it says the principle applies to."""

    principle: str
    n: int
    applies: int
    unread: int

    @property
    def line(self) -> str:
        """`n of m (unread u)`."""
        return f"{self.applies} of {self.n} (unread {self.unread})"


class Applicability(Identified):
    """What one judge said to whether one principle applies to one prompt.

    `key` is the digest of the question (what resume looks up), `id` of the answer. `mass` is the probability of "yes"
    and "no" together; `invalid` means that it was too small to be an answer, `error` that there was none.
    """

    key: str
    prompt_id: str
    principle: str
    principle_digest: str
    template_digest: str
    judge: str
    outcome: Literal["answered", "invalid", "error"]
    p_applies: Annotated[float, Field(ge=0, le=1)] | None
    logprobs: tuple[float, ...]
    mass: float | None
    raw: str | None = None
    usage: Usage
    seed: int

    @property
    def applies(self) -> bool | None:
        """Whether the principle applies; None when the judge gave no usable answer."""
        return None if self.p_applies is None else self.p_applies >= APPLIES

    @property
    def said(self) -> Said:
        """What a judgment, or a grade, keeps of it."""
        return Said(
            p=self.p_applies, template=self.template_digest, judge=self.judge, logprobs=self.logprobs, mass=self.mass
        )


@dataclass(frozen=True)
class _Question:
    prompt_id: str
    principle: Principle
    dialogue: Dialogue
    key: str


def applies(
    conversations: Mapping[str, Dialogue],
    principles: Sequence[Principle],
    *,
    backend: Backend,
    pack: TemplatePack,
    seed: int,
    known: Known | None = None,
) -> Iterator[Applicability]:
    """Asks of every conversation and every principle with an `applies_when` whether the one calls for the other.

    Args:
        conversations: one chunk, by prompt id: `{p.id: p.messages for p in prompts}`, or the same of comparisons.
        principles: those without `applies_when` are passed over: they apply to all.
        backend: the judge; must give log-probabilities.
        pack: template `applies` and the two continuations `yes_no`.
        seed: recorded; the verdict itself is deterministic.
        known: verdicts given before are returned from there and not asked again.

    Yields:
        One Applicability per conversation and principle, conversation by conversation; a question that does not fit
        the judge's context is an `error`, one whose options hold no mass is `invalid`.

    Raises:
        BackendError: the judge gives no log-probabilities.
    """
    template = pack.digest("applies")
    asked = []
    for prompt_id, messages in conversations.items():
        shown = [message.model_dump(mode="json") for message in messages]
        for principle in principles:
            if principle.applies_when is not None:
                rendered = pack.render("applies", conversation=messages, applies_when=principle.applies_when)
                asked_for = [principle.ref, principle.applies_when]
                key = digest(["applies", prompt_id, shown, asked_for, template, backend.model])
                asked.append(_Question(prompt_id, principle, rendered.dialogue, key))
    found = known([question.key for question in asked]) if known else {}
    fitting = [q for q in asked if q.key not in found and backend.room(q.dialogue) >= OPTION_TOKENS]
    likelihoods = backend.loglikelihood([q.dialogue for q in fitting], [pack.yes_no] * len(fitting)) if fitting else []
    by_key = dict(zip((question.key for question in fitting), likelihoods, strict=True))
    for question in asked:
        if question.key in found:
            yield found[question.key]
        else:
            yield _verdict(question, by_key.get(question.key), template, backend.model, seed)


def _verdict(
    question: _Question, likelihood: Likelihood | None, template: str, judge_model: str, seed: int
) -> Applicability:
    outcome, p_applies, mass = option_probability(likelihood.logprobs) if likelihood else ("error", None, None)
    fault = likelihood.fault if likelihood else "too long for the judge's context"
    outcome = "invalid" if likelihood and fault is not None else outcome
    finite = likelihood is not None and all(map(math.isfinite, likelihood.logprobs))
    return Applicability(
        key=question.key,
        prompt_id=question.prompt_id,
        principle=question.principle.ref,
        principle_digest=question.principle.digest,
        template_digest=template,
        judge=judge_model,
        outcome="invalid" if outcome == "invalid" else "error" if p_applies is None else "answered",
        p_applies=p_applies,
        logprobs=likelihood.logprobs if likelihood and finite else (),
        mass=mass,
        raw=fault,
        usage=Usage(prompt_tokens=likelihood.prompt_tokens if likelihood else 0),
        seed=seed,
    )


def unread(verdicts: Iterable[Applicability], stage: str) -> list[Failure]:
    """The verdicts that could not be read, as failures of their prompts: `applies_invalid` or `applies_error`."""
    return [
        Failure(item_id=v.prompt_id, stage=stage, kind=f"applies_{v.outcome}", message=v.principle)
        for v in verdicts
        if v.applies is None
    ]


def case_rows(verdicts: Sequence[Applicability]) -> tuple[CaseRow, ...]:
    """One row a principle of the verdicts on its own cases, by `id@version`."""
    by_ref = {ref: [v for v in verdicts if v.principle == ref] for ref in sorted({v.principle for v in verdicts})}
    return tuple(
        CaseRow(
            principle=ref,
            n=len(found),
            applies=sum(v.applies is True for v in found),
            unread=sum(v.applies is None for v in found),
        )
        for ref, found in by_ref.items()
    )


def case_problems(rows: Iterable[CaseRow]) -> list[str]:
    """Why a judge may not be asked whether principles apply: it says so of less than half of a principle's cases."""
    found = []
    for row in rows:
        if 2 * row.applies < row.n:
            no = row.n - row.applies - row.unread
            also = f", and {row.unread} more answers could not be read" if row.unread else ""
            found.append(f"the judge says of {no} of {row.n} cases of {row.principle} that it does not apply{also}")
    return found
