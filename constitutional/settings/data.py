"""What a recipe may say of prompts, of what models write, and of the comparisons made from it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from constitutional.records import PromptKind, Record
from constitutional.settings.values import Count


class PromptSource(Record):
    """A prompt file or hub data set. The limits cap its `train` and its `heldout` rows; None takes all."""

    path: str
    limit: Count | None = None
    heldout_limit: Count | None = None


class PromptSettings(Record):
    """The three kinds of prompts: harmful, ordinary, and harmless ones that only look harmful."""

    red_team: PromptSource
    helpful: PromptSource
    benign: PromptSource | None = None


class SamplingSettings(Record):
    """How one model's text is drawn; None leaves the model's own default."""

    temperature: Annotated[float, Field(ge=0)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(ge=1)] | None = None
    max_tokens: Count | None = None


class RoleSampling(Record):
    """Sampling by role."""

    policy: SamplingSettings = SamplingSettings()
    feedback: SamplingSettings = SamplingSettings()


class ReviseSettings(Record):
    """Critique and revision. `principles` names the ones to draw from; None is all that have a revision request."""

    rounds: Count = 1
    replacement: bool = True
    critique: bool = True
    candidates: Count = 1
    principles: tuple[str, ...] | None = None


class HelpfulSettings(Record):
    """The policy's answers to helpful prompts: `draws` of each; `max_tokens` None is the policy's."""

    draws: Count = 1

    max_tokens: Count | None = None


class PairSource(Record):
    """A file of human-labelled pairs, or a hub data set; `limit` caps its rows. `kind` says what its prompts are."""

    path: str
    limit: Count | None = None
    kind: PromptKind = "helpful"


class SampleSettings(Record):
    """Answers drawn for each prompt, to be compared; `temperature` None is the policy's.

    `revisions` adds each revision against the answer it revises, for the judge to compare: two draws of one small
    policy are often too much alike for a preference model to learn from. `pairs` takes the comparisons of a file
    instead, and keeps its labels beside them; nothing is drawn then.

    `compare` says which of the `n` answers: neighbours (the first with the second, the third with the fourth), or all
    with all. `contrast` draws, in their place, one answer under a principle's comparison request and one under its
    negation (template `contrast`); where the gate's fallback is `provenance`, the first is preferred.
    """

    n: Annotated[int, Field(ge=2, multiple_of=2)] = 2
    temperature: Annotated[float, Field(ge=0)] | None = None
    revisions: bool = False
    pairs: PairSource | None = None
    compare: Literal["neighbours", "all"] = "neighbours"
    contrast: bool = False
