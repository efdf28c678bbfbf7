"""Answers of a policy paired into comparisons (Bai et al. 2022, section 4.1: pairs from SL-CAI)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Literal

from constitutional.backends import Backend
from constitutional.feedback.respond import respond
from constitutional.records import Answer, Comparison, Failure, Prompt, Revision, Sampling
from constitutional.templates import TemplatePack


def sample(
    prompts: Sequence[Prompt],
    *,
    policy: Backend,
    pack: TemplatePack,
    sampling: Sampling,
    n: int = 2,
    seed: int,
    chunk: int = 0,
    compare: Literal["neighbours", "all"] = "neighbours",
) -> Iterator[Comparison | Failure]:
    """Draws `n` answers per prompt and pairs the first with the second, the third with the fourth, and so on.

    `compare` "all" pairs each answer with each other one (`compare_all`).

    Two equal answers make no comparison (Failure `identical_pair`); nor does an answer whose partner failed (Failure
    `no_pair`; the partner has a Failure of its own).
    """
    answers: dict[str, list[Answer]] = {prompt.id: [] for prompt in prompts}
    for outcome in respond(prompts, policy=policy, pack=pack, sampling=sampling, seed=seed, chunk=chunk, draws=n):
        if isinstance(outcome, Failure):
            yield outcome.model_copy(update={"stage": "sample"})
        else:
            answers[outcome.prompt_id].append(outcome)
    for prompt in prompts:
        drawn = answers[prompt.id]
        if compare == "all":
            yield from compare_all(prompt, drawn)
            continue
        if len(drawn) % 2:
            yield Failure(item_id=prompt.id, stage="sample", kind="no_pair", message="an answer without a partner")
        for one, other in zip(drawn[::2], drawn[1::2], strict=False):
            if one.text == other.text:
                yield Failure(item_id=prompt.id, stage="sample", kind="identical_pair", message=one.text[:80])
            else:
                yield compare_answers(prompt, one, other)


def compare_all(prompt: Prompt, answers: Sequence[Answer]) -> Iterator[Comparison | Failure]:
    """Every pair of different answers to a prompt; equal answers are compared once, through the first of them.

    A text that occurs again is a Failure `identical_pair`: nothing could tell the two apart.
    """
    first: dict[str, Answer] = {}
    for answer in answers:
        if answer.text in first:
            yield Failure(item_id=prompt.id, stage="sample", kind="identical_pair", message=answer.text[:80])
        first.setdefault(answer.text, answer)
    if len(first) == 1 and len(answers) == 1:
        yield Failure(item_id=prompt.id, stage="sample", kind="no_pair", message="an answer without a partner")
    for one, other in itertools.combinations(first.values(), 2):
        yield compare_answers(prompt, one, other)


def compare_answers(prompt: Prompt, one: Answer, other: Answer) -> Comparison:
    """A comparison of two answers drawn for the same prompt."""
    return Comparison(
        prompt_id=prompt.id,
        messages=prompt.messages,
        a=one.text,
        b=other.text,
        a_model=one.model,
        b_model=other.model,
        origin="sampled",
        parents=(one.id, other.id),
        a_seed=one.seed,
        b_seed=other.seed,
    )


def compare_contrast(prompt: Prompt, answer: Answer, refusal: Revision) -> Comparison:
    """A comparison of a helpful answer (`a`) with the reply that was written for another, harmful prompt (`b`)."""
    return Comparison(
        prompt_id=prompt.id,
        messages=prompt.messages,
        a=answer.text,
        b=refusal.final,
        a_model=answer.model,
        b_model=refusal.critic,
        origin="contrast",
        parents=(answer.id, refusal.id),
        a_seed=answer.seed,
        b_seed=refusal.revised[-1].revision_seed,
    )


def compare_revision(prompt: Prompt, revision: Revision) -> Comparison:
    """A comparison of a revision (`a`) with the answer it revises (`b`)."""
    return Comparison(
        prompt_id=prompt.id,
        messages=prompt.messages,
        a=revision.final,
        b=revision.initial,
        a_model=revision.critic,
        b_model=revision.policy,
        origin="revision",
        parents=(revision.id,),
        a_seed=revision.revised[-1].revision_seed,
        b_seed=revision.seed,
    )
