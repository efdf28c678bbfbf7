"""What a recipe may say: one small frozen model for each section."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from constitutional.records import Record
from constitutional.settings.data import (
    HelpfulSettings,
    PairSource,
    PromptSettings,
    PromptSource,
    ReviseSettings,
    RoleSampling,
    SampleSettings,
    SamplingSettings,
)
from constitutional.settings.judging import (
    EndpointSettings,
    EvaluationSettings,
    GateSettings,
    JudgeSettings,
    JudgingSettings,
    LabelSettings,
)
from constitutional.settings.loop import PerplexitySettings, PromotionSettings
from constitutional.settings.rl import (
    USED_BY,
    Algorithm,
    CriticKind,
    DpoSettings,
    PpoSettings,
    RewardKind,
    RewardSettings,
    RlSettings,
    Tracker,
)
from constitutional.settings.training import (
    EnsembleSettings,
    HumanPreferences,
    LoraSettings,
    PmSettings,
    RowSettings,
    SftSettings,
)
from constitutional.settings.values import Count, Rate, Scalar, Share, Spec, SpecOrSelf
from constitutional.settings.watch import WatchSettings

__all__ = [
    "READS_NO_PROMPTS",
    "USED_BY",
    "Algorithm",
    "Count",
    "CriticKind",
    "DpoSettings",
    "EndpointSettings",
    "EnsembleSettings",
    "EvaluationSettings",
    "GateSettings",
    "HelpfulSettings",
    "HumanPreferences",
    "JudgeSettings",
    "JudgingSettings",
    "LabelSettings",
    "LoraSettings",
    "PairSource",
    "PerplexitySettings",
    "PmSettings",
    "PpoSettings",
    "PromotionSettings",
    "PromptSettings",
    "PromptSource",
    "Rate",
    "Recipe",
    "ReviseSettings",
    "RewardKind",
    "RewardSettings",
    "RlSettings",
    "RoleSampling",
    "RowSettings",
    "SampleSettings",
    "SamplingSettings",
    "Scalar",
    "SftSettings",
    "Share",
    "Spec",
    "SpecOrSelf",
    "StageName",
    "Tracker",
    "WatchSettings",
]

StageName = Literal["revise", "helpful", "sft", "sample", "gate", "judge", "label", "pm", "rl", "answers", "evaluate"]
READS_NO_PROMPTS: frozenset[StageName] = frozenset({"sample", "gate", "judge"})
"""Steps that need no prompts where `sample.pairs` brings the comparisons."""

_LOOP = ("rounds", "promotion")
_NEWER = ("checkpoint_every", "policy_engine")


class Recipe(Record):
    """One run, fully written out. Paths are texts as written; `config.resolve_path` finds them.

    `dtype` is what torch models compute in; `auto` is the one this machine is fast at.

    `policy_engine` is what writes the policy's text, that of the models trained from it, and that of `feedback: self`:
    torch, or openvino, which is faster on a CPU and reads the same weights rounded to 16 bits. Judging and training
    are torch's.

    `prompts` may be left out where `sample.pairs` brings the comparisons and no step answers prompts.

    `checkpoint_every` is after how many steps a training writes a checkpoint, which a killed run goes on from; null
    writes none. It is no part of what a stage is known by, and does not change what is trained.

    `stages` names the steps to run, None all; without `sft` the policy itself is sampled and compared.

    `rounds` runs the steps so many times over: the policy of a round is the last model that was promoted, which
    `promotion` decides on held-out prompts that no other round sees; `self` is the round's own policy.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)]
    seed: int = 0
    constitution: str
    templates: str | None = None
    policy: Spec
    feedback: SpecOrSelf = "self"
    judge: SpecOrSelf | None = None
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    threads: Count | None = None
    policy_engine: Literal["torch", "openvino"] = "torch"
    chunk_size: Count = 16
    checkpoint_every: Count | None = 50
    stages: Annotated[tuple[StageName, ...], Field(min_length=1)] | None = None
    prompts: PromptSettings | None = None
    sampling: RoleSampling = RoleSampling()
    revise: ReviseSettings = ReviseSettings()
    helpful: HelpfulSettings = HelpfulSettings()
    sft: SftSettings = SftSettings()
    sample: SampleSettings = SampleSettings()
    judging: JudgingSettings = JudgingSettings()
    gate: GateSettings = GateSettings()
    label: LabelSettings = LabelSettings()
    pm: PmSettings = PmSettings()
    rl: RlSettings = RlSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    endpoint: EndpointSettings = EndpointSettings()
    rounds: Count | None = None
    promotion: PromotionSettings | None = None

    @model_serializer(mode="wrap")
    def _without_rounds(self, handler: SerializerFunctionWrapHandler) -> dict[str, object]:
        """A recipe without rounds, or another newer setting, is written as before there were any."""
        fields: dict[str, object] = handler(self)
        for name in _NEWER:
            if getattr(self, name) == type(self).model_fields[name].default:
                fields.pop(name, None)
        return {name: value for name, value in fields.items() if name not in _LOOP or value is not None}

    @model_validator(mode="after")
    def _promotion_is_of_rounds(self) -> Self:
        if self.promotion is not None and self.rounds is None:
            raise ValueError("promotion: there are no rounds whose models it could promote: set rounds")
        return self

    @model_validator(mode="after")
    def _has_something_to_answer(self) -> Self:
        reads_pairs = self.stages is not None and self.sample.pairs is not None and set(self.stages) <= READS_NO_PROMPTS
        if self.prompts is None and not reads_pairs:
            raise ValueError("prompts: missing")
        return self
