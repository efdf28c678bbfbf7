"""Contrast pairs (Yang et al. 2023, RLCD): one prompt answered under a principle's request and under its negation.

Neither answer is judged to be labelled: the one that was asked to fit the principle is preferred. Both questions are
the template `contrast`, and differ in the request alone.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from constitutional.backends import Backend, Unanswered
from constitutional.errors import ConfigError
from constitutional.feedback.respond import generate_fitting, unanswered
from constitutional.principles import Principle
from constitutional.records import Comparison, Failure, Prompt, Sampling, seed_for
from constitutional.templates import TemplatePack

STAGE = "sample"


def contrasting(principles: Sequence[Principle]) -> list[Principle]:
    """Those that have both requests."""
    return [p for p in principles if p.comparison_request and p.negated_comparison_request]


def contrast(
    prompts: Sequence[Prompt],
    *,
    policy: Backend,
    pack: TemplatePack,
    principles: Sequence[Principle],
    sampling: Sampling,
    seed: int,
    chunk: int = 0,
) -> Iterator[Comparison | Failure]:
    """One comparison a prompt: `a` was asked to fit a principle that a seed draws, `b` to fit its negation.

    Failures: `too_long`, `empty_generation`, and `identical_pair` where both requests gave one answer.

    Raises:
        ConfigError: no principle has both requests, or the pack has no template `contrast`.
    """
    eligible = contrasting(principles)
    if not eligible:
        raise ConfigError("contrast pairs need a principle with a comparison_request and a negated_comparison_request")
    if "contrast" not in pack.templates:
        raise ConfigError(f"template pack {pack.ref} has no contrast.j2: contrast pairs need it")
    drawn = [random.Random(seed_for(seed, "contrast", prompt.id)).choice(eligible) for prompt in prompts]
    sides = []
    for name, requests in (
        ("under", [p.comparison_request or "" for p in drawn]),
        ("against", [p.negated_comparison_request or "" for p in drawn]),
    ):
        dialogues = [
            pack.render("contrast", conversation=prompt.messages, comparison_request=request).dialogue
            for prompt, request in zip(prompts, requests, strict=True)
        ]
        settings = sampling.model_copy(update={"seed": seed_for(seed, "contrast", chunk, name), "stop": pack.stop})
        sides.append((settings.seed, generate_fitting(policy, dialogues, settings)))
    (a_seed, under), (b_seed, against) = sides
    for prompt, principle, a, b in zip(prompts, drawn, under, against, strict=True):
        if isinstance(a, Unanswered):
            yield unanswered(prompt.id, STAGE, a)
        elif isinstance(b, Unanswered):
            yield unanswered(prompt.id, STAGE, b)
        elif not a.text.strip() or not b.text.strip():
            yield _failure(prompt, "empty_generation", f"an answer under {principle.ref} or its negation has no text")
        elif a.text.strip() == b.text.strip():
            yield _failure(prompt, "identical_pair", a.text.strip()[:80])
        else:
            yield Comparison(
                prompt_id=prompt.id,
                messages=prompt.messages,
                a=a.text.strip(),
                b=b.text.strip(),
                a_model=a.model,
                b_model=b.model,
                origin="negation",
                a_seed=a_seed,
                b_seed=b_seed,
                principle=principle.ref,
            )


def _failure(prompt: Prompt, kind: str, message: str) -> Failure:
    return Failure(item_id=prompt.id, stage=STAGE, kind=kind, message=message)
