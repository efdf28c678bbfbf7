"""Which prompts are kept from training: told apart by what they say, not by the file they stand in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from constitutional.errors import DataError
from constitutional.evaluation.evaluate import KINDS
from constitutional.evaluation.promotion import least_prompts
from constitutional.pipeline.inputs import Inputs
from constitutional.pipeline.preference_rows import human_comparisons
from constitutional.records import Dialogue, Prompt, digest, short_digest
from constitutional.settings.loop import PromotionSettings


def conversation_digest(messages: Dialogue) -> str:
    """Equal for conversations that differ in upper case or white space only."""
    return short_digest([[m.role, " ".join(m.content.split()).casefold()] for m in messages])


def trained_conversations(inputs: Inputs, steps: Sequence[str]) -> set[str]:
    """Digests of every conversation that a training step of the recipe may learn from."""
    found = {conversation_digest(p.messages) for p in inputs.prompts if p.split == "train"}
    if inputs.pairs is not None:
        found |= {conversation_digest(p.messages) for p in inputs.pairs.prompts}
    if "pm" in steps or "rl" in steps:
        found |= {conversation_digest(h.comparison.messages) for h in human_comparisons(inputs) if h.weight}
    return found


def heldout_parts(inputs: Inputs, steps: Sequence[str]) -> list[list[Prompt]]:
    """The held-out prompts of each round: of every kind, one N-th, in the order of a digest of seed and conversation.

    A prompt whose conversation is trained on, or that stands there twice, is in no part; so no two rounds share one.

    Raises:
        DataError: a kind with too few of them for the rounds.
    """
    rounds = inputs.recipe.rounds or 1
    seen = trained_conversations(inputs, steps)
    free: dict[str, Prompt] = {}
    for prompt in (p for kind in KINDS for p in inputs.select(kind, "heldout")):
        name = conversation_digest(prompt.messages)
        if name not in seen:
            free.setdefault(name, prompt)
    parts: list[set[str]] = [set() for _ in range(rounds)]
    for kind in KINDS:
        own = {name: p.id for name, p in free.items() if p.kind == kind}
        _check_enough(inputs, kind, len(own))
        for place, name in enumerate(sorted(own, key=lambda name: digest([inputs.recipe.seed, name]))):
            parts[place % rounds].add(own[name])
    return [[p for p in inputs.prompts if p.id in part] for part in parts]


def _check_enough(inputs: Inputs, kind: str, free: int) -> None:
    rounds, promotion = inputs.recipe.rounds or 1, inputs.recipe.promotion or PromotionSettings()
    given = sum(p.kind == kind and p.split == "heldout" for p in inputs.prompts)
    own_answers = (settings := inputs.recipe.evaluation.perplexity) is None or settings.answers is None
    least = 1 if given else 0
    if kind == "red_team":
        least = least_prompts(promotion.figure)
    elif kind == "helpful" and own_answers and promotion.max_perplexity is not None:
        least = 2  # one answer has no interval
    if free >= rounds * least:
        return
    left_out = f" ({given - free} more are trained on or stand there twice)" if free < given else ""
    reason = "".join(_reasons(kind, promotion))
    raise DataError(
        f"rounds: {free} held-out {kind} prompts{left_out} are too few for {rounds} rounds, which need {least} each"
        f"{reason}"
    )


def _reasons(kind: str, promotion: PromotionSettings) -> Iterator[str]:
    if kind == "red_team":
        yield f": with fewer no interval of promotion.figure '{promotion.figure}' could say that a model is better"
    elif kind == "helpful" and promotion.max_perplexity is not None:
        yield ": promotion.max_perplexity measures on them (null asks for nothing)"
