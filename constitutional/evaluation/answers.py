"""Held-out answers of the compared models, each with the detector's label and its distance from the base model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

from constitutional.backends import Backend
from constitutional.errors import BackendError
from constitutional.evaluation.refusal import classify
from constitutional.feedback.respond import respond
from constitutional.records import (
    Answer,
    Dialogue,
    Failure,
    FinishReason,
    Identified,
    Prompt,
    PromptKind,
    Sampling,
    Usage,
)
from constitutional.templates import TemplatePack

System = Literal["base", "sl-cai", "rl-cai", "rlhf", "rlaif", "hybrid"]
SYSTEMS: tuple[System, ...] = ("base", "sl-cai", "rl-cai")
"""The models of one run."""
ARMS: tuple[System, ...] = ("rlhf", "rlaif", "hybrid")
"""The RL-CAI of each arm of a comparison: people's preferences, the run's own labels, or both."""


class EvaluatedAnswer(Identified):
    """One system's answer to one held-out prompt.

    `label` is the rule-based detector's; `kl` is the answer's log-probability under its own model less that under the
    base model, in nats per answer token: a one-sample estimate of the KL divergence where answers are drawn at
    temperature 1, else the distance along the likelier answers. None for the base itself or where the engine gives no
    log-probabilities.
    """

    system: System
    prompt_id: str
    kind: PromptKind
    model: str
    text: str
    finish_reason: FinishReason
    label: Literal["refusal", "partial", "compliance", "empty"]
    usage: Usage
    kl: float | None
    seed: int


def answer(
    prompts: Sequence[Prompt],
    *,
    system: System,
    policy: Backend,
    measured: tuple[Backend, Backend] | None,
    pack: TemplatePack,
    sampling: Sampling,
    seed: int,
    chunk: int = 0,
) -> Iterator[EvaluatedAnswer | Failure]:
    """One answer per prompt.

    Args:
        prompts: one chunk of held-out prompts.
        system: which of the compared models this is.
        policy: the model that answers.
        measured: what gives log-probabilities of this model and of the base model, to measure the distance between
            them; None leaves `kl` out.
        pack: template `respond`.
        sampling: how answers are drawn, the same for every system.
        seed: the run's seed.
        chunk: number of this chunk.
    """
    found = list(
        respond(prompts, policy=policy, pack=pack, sampling=sampling, seed=seed, chunk=chunk, allow_empty=True)
    )
    answers = [a for a in found if not isinstance(a, Failure)]
    by_id = {prompt.id: prompt for prompt in prompts}
    dialogues = [pack.render("respond", conversation=by_id[a.prompt_id].messages).dialogue for a in answers]
    distances = _kl(measured, dialogues, answers)
    for failure in found:
        if isinstance(failure, Failure):
            yield failure.model_copy(update={"stage": "answers", "message": f"{system}: {failure.message}"})
    for one, kl in zip(answers, distances, strict=True):
        prompt = by_id[one.prompt_id]
        yield EvaluatedAnswer(
            system=system,
            prompt_id=prompt.id,
            kind=prompt.kind,
            model=one.model,
            text=one.text,
            finish_reason=one.finish_reason,
            label=classify(prompt.messages[-1].content, one.text),
            usage=one.usage,
            kl=kl,
            seed=one.seed,
        )


def _kl(
    measured: tuple[Backend, Backend] | None, dialogues: Sequence[Dialogue], answers: Sequence[Answer]
) -> list[float | None]:
    rows = [i for i, answer in enumerate(answers) if answer.text]
    found: list[float | None] = [None] * len(answers)
    if measured is None or not rows:
        return found
    policy, base = measured
    asked, texts = [dialogues[i] for i in rows], [[answers[i].text] for i in rows]
    try:
        own, other = policy.loglikelihood(asked, texts), base.loglikelihood(asked, texts)
    except BackendError:  # an engine without log-probabilities
        return found
    for i, o, b in zip(rows, own, other, strict=True):
        difference = o.logprobs[0] - b.logprobs[0]
        if math.isfinite(difference):  # NaN: prompt and answer no longer fit the context
            found[i] = difference / max(1, answers[i].usage.completion_tokens)
    return found
