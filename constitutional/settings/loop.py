"""What a recipe may say of rounds: when a round's model replaces the last one, and how forgetting is measured."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from constitutional.records import Record

Figure = Literal["judge", "preference_model", "compliance"]


class PromotionSettings(Record):
    """When a round's model replaces the policy that it was trained from; else that policy stays.

    `figure` is what must be better on the round's held-out red-team prompts, by the end of its 95 % interval that is
    least in favour of the new model: its win rate over the policy, as said by the judge (whose gate must pass) or by
    the round's preference model, above one half; or its compliance below the policy's.

    `max_perplexity` is by how much perplexity on held-out helpful answers may have grown over that of the start model:
    the upper end of the ratio's interval; null asks for nothing.
    """

    figure: Figure = "judge"
    max_perplexity: Annotated[float, Field(ge=1, allow_inf_nan=False)] | None = 2.0


class PerplexitySettings(Record):
    """Perplexity of every compared model on held-out helpful answers, beside that of the start model.

    `answers` is a file of pairs (its chosen answers are taken; `limit` caps its rows); None takes the start model's own
    answers to the held-out helpful prompts. `start` is the model to compare with; None is the recipe's policy.
    """

    answers: str | None = None
    limit: Annotated[int, Field(ge=1)] | None = None
    start: str | None = None
