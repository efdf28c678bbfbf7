"""What a recipe may say of supervised training and of the preference model."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from constitutional.records import Record
from constitutional.settings.values import Count, Scalar


class LoraSettings(Record):
    """Low-rank adapters, merged into the saved model."""

    r: Count = 16
    alpha: Count = 32
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    target_modules: tuple[str, ...] | Literal["all-linear"] = "all-linear"


class SftSettings(Record):
    """Training on `final` revisions or on those of `all` rounds, with `helpful_ratio` helpful answers a revision."""

    rounds: Literal["final", "all"] = "final"
    helpful_ratio: Annotated[float, Field(ge=0)] = 1.0
    drop_flagged: bool = True
    lora: LoraSettings | None = None
    trl: dict[str, Scalar] = Field(default_factory=dict)


class HumanPreferences(Record):
    """A file or hub data set of pairs that people compared (hh-rlhf, or `prompt`, `chosen`, `rejected`).

    `weight` is that of each pair in the preference model's loss, relative to other rows; 0 only measures. Pairs are
    held out as labels of the run are, by `pm.heldout`.
    """

    path: str
    limit: Count | None = None
    weight: Annotated[float, Field(ge=0)] = 1.0


class EnsembleSettings(Record):
    """Several preference models, each trained from the same start on a bootstrap of the rows under a seed of its own.

    The score is their mean, the least of them (`min`), or the mean less `spread` standard deviations (`lower`).
    """

    members: Annotated[int, Field(ge=2)] = 3
    rule: Literal["mean", "min", "lower"] = "mean"
    spread: Annotated[float, Field(ge=0)] = 1.0


class RowSettings(Record):
    """How many preference rows are trained on, exactly: of the run's own labels, and of people's preferences.

    Those of lowest id are taken, a draw by content, without such as are longer than what is trained reads; with fewer
    there, training does not begin.
    """

    ai: Annotated[int, Field(ge=0)]
    human: Annotated[int, Field(ge=0)]


class PmSettings(Record):
    """The preference model; `heldout` is the share of prompts kept for measuring it.

    `contrast` adds, per labelled red-team comparison, that many helpful prompts with the policy's own answer preferred
    to a refusal written for another prompt: without helpful comparisons the preference model learns that refusing is
    always better (the paper mixes in human ones). Their p is the judge's own mean p on the gate's comparisons that it
    got right (1 where no judge labels).

    `human` mixes in preferences of people; without the step `label` the model learns from them alone. `ai_weight` is
    the weight of the run's own labels beside them; 0 only measures. `rows` holds how many rows of each are trained on;
    None takes all. `margin` is the log-odds by which a certain label should win. `conditioned` trains on every
    principle's own opinions, with its text behind the answer, so that principles and their weights can change at RL
    time. `head: probe` begins with the line through the untrained model's last hidden states that fits the labels,
    instead of with zeros.
    """

    contrast: Annotated[float, Field(ge=0)] = 0.0
    heldout: Annotated[float, Field(gt=0, lt=1)] = 0.2
    human: tuple[HumanPreferences, ...] = ()
    ai_weight: Annotated[float, Field(ge=0)] = 1.0
    margin: Annotated[float, Field(ge=0)] = 0.0
    conditioned: bool = False
    head: Literal["zero", "probe"] = "zero"
    ensemble: EnsembleSettings | None = None
    rows: RowSettings | None = None
    lora: LoraSettings | None = None
    trl: dict[str, Scalar] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _rows_are_labels(self) -> Self:
        if self.rows is not None and self.conditioned:
            raise ValueError("rows: counts labels, but a conditioned model is trained on every principle's opinions")
        return self

    @model_serializer(mode="wrap")
    def _without_absent(self, handler: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Settings of recipes that use none of the later ones are written, and digested, as before there were any."""
        later = ("human", "ai_weight", "margin", "conditioned", "head", "ensemble", "rows", "lora")
        fields = type(self).model_fields
        absent = {name for name in later if getattr(self, name) == fields[name].default}
        return {name: value for name, value in handler(self).items() if name not in absent}
