"""What a recipe may say of judges, labels and evaluation, and of the servers that are asked."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from constitutional.errors import nearest
from constitutional.records import Mode, Record
from constitutional.settings.data import SamplingSettings
from constitutional.settings.loop import PerplexitySettings
from constitutional.settings.values import Count, Share, SpecOrSelf


class JudgeSettings(Record):
    """One more judge of the comparisons, told apart by its name; `model` may be `model:FOLDER`, a preference model."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=40)]
    model: SpecOrSelf
    mode: Mode | None = None
    samples: Count | None = None
    sampling: SamplingSettings | None = None

    @model_validator(mode="after")
    def _only_what_is_used(self) -> Self:
        _check_drawing(self.mode, self.samples, self.sampling)
        return self


class JudgingSettings(Record):
    """How comparisons are judged: under which principles (a seeded draw, or all), how many of them, how, and by whom.

    `mode` None is `model` where the judge is a preference model (`judge: model:FOLDER`), else `logprob`. `samples` and
    `sampling` are for the modes that draw texts: `cot` (1 sample an order) and `vote` (5). `shot_principles: sampled`
    shows every few-shot that has no request of its own under an independently drawn principle, as in the paper, and not
    under the one that is asked. `judges` give their opinion on the same comparisons; `labels` names the one whose word
    makes labels: `judge` is the recipe's own. The gate and the evaluation ask that one.
    """

    mode: Mode | None = None
    samples: Count | None = None
    sampling: SamplingSettings | None = None
    shot_principles: Literal["same", "sampled"] = "same"
    principles_per_comparison: Count | Literal["all"] = "all"
    limit: Count | None = None
    judges: tuple[JudgeSettings, ...] = ()
    labels: str = "judge"

    @model_validator(mode="after")
    def _only_what_is_used(self) -> Self:
        _check_drawing(self.mode, self.samples, self.sampling)
        names = ["judge", *(judge.name for judge in self.judges)]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two judges are called '{name}' ('judge' is the recipe's own)")
        if self.labels not in names:
            raise ValueError(f"labels: no judge is called '{self.labels}'{nearest(self.labels, names)}")
        if self.shot_principles == "sampled" and self.mode in ("score", "model") and not self.judges:
            raise ValueError(f"shot_principles: mode '{self.mode}' shows no few-shots")
        return self


def _check_drawing(mode: Mode | None, samples: int | None, sampling: SamplingSettings | None) -> None:
    if mode not in ("cot", "vote") and (samples is not None or sampling is not None):
        name = "samples" if samples is not None else "sampling"
        raise ValueError(f"{name}: only the modes 'cot' and 'vote' draw, this one is '{mode or 'logprob'}'")


class GateSettings(Record):
    """When a judge may be believed. `human` is a file of labelled pairs to ask besides the constitution's examples."""

    min_order_consistency: Share = 0.6
    fallback: Literal["stop", "provenance"] = "stop"
    human: str | None = None
    human_limit: Count | None = None
    examples_per_principle: Count | None = None


class LabelSettings(Record):
    """The rule that turns judgments into a soft label, and when a label abstains.

    `margin` is for the rules `tiers` and `veto`: how far from one half is decisive. `veto` is the tier, or the ids of
    the principles, that decide alone in the rule `veto`. `calibration` mends each judge's p, and the rule `calibrated`
    weighs the principles, as fitted to the gate's labelled comparisons: those of one source, or of `all`.

    A label abstains where p moves by more than `order_gap` when the order is turned, where the options have less than
    `min_mass`, or where more than the share `disagreement` of the principles prefers the other answer. `clamp` holds
    the opinions of a judge that reasons first (mode `cot`) between two values, as in the paper; null leaves them as
    they are.

    `source: provenance` labels by where answers come from and asks no judge: the revision over the answer it revises,
    or of `sample.contrast` the answer asked for under the principle over that under its negation.
    """

    source: Literal["judge", "provenance"] = "judge"

    rule: Literal["sampled", "mean", "weighted", "tiers", "veto", "dominant", "calibrated"] = "mean"
    margin: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    veto: Count | Annotated[tuple[str, ...], Field(min_length=1)] = 1
    calibration: Literal["temperature", "platt"] | None = None
    fitted_to: Literal["examples", "human", "all"] = "all"
    order_gap: Share | None = None
    min_mass: Share | None = None
    disagreement: Share | None = None
    clamp: tuple[Share, Share] | None = (0.4, 0.6)

    @model_validator(mode="after")
    def _clamp_in_order(self) -> Self:
        if self.clamp is not None and not self.clamp[0] <= 0.5 <= self.clamp[1]:
            raise ValueError("clamp: expected [least, greatest] with one half between them")
        return self


class EndpointSettings(Record):
    """How servers are called (`openai:` models). No part of what a stage is known by: answers do not depend on it.

    `concurrency` is the most calls at once; `timeout` the seconds of one attempt, `patience` those of all attempts of a
    call and the pauses between them. `prices` is a file of US dollars per million tokens, by model name.
    """

    concurrency: Count = 64
    requests_per_minute: Annotated[float, Field(gt=0)] | None = None
    tokens_per_minute: Annotated[float, Field(gt=0)] | None = None
    timeout: Annotated[float, Field(gt=0)] = 120.0
    patience: Annotated[float, Field(gt=0)] = 900.0
    prices: str | None = None


class EvaluationSettings(Record):
    """How many pairs of answers the judge sees, under how many principles each, and how answers are drawn.

    `temperature` 0 takes the likeliest token each time: on few prompts, what one draw happens to say moves a rate by
    more than the training does (docs/LOG.md). None draws as the policy does elsewhere. `perplexity` measures what was
    forgotten; None leaves it out.
    """

    judge_limit: Count | None = None
    principles_per_comparison: Count | Literal["all"] = 1
    max_tokens: Count | None = None
    temperature: Annotated[float, Field(ge=0)] | None = None
    perplexity: PerplexitySettings | None = None

    @model_serializer(mode="wrap")
    def _without_absent(self, handler: SerializerFunctionWrapHandler) -> dict[str, object]:
        fields: dict[str, object] = handler(self)
        return {name: value for name, value in fields.items() if name != "perplexity" or value is not None}
