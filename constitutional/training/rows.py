"""What training takes and gives back: rows that name the records they came from, and the figures of a finished run.

No heavy library is imported here, so a pipeline can build rows without loading torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from constitutional.records import Dialogue, Failure, Record, Said
from constitutional.settings import RewardKind
from constitutional.statistics import Interval
from constitutional.training.watch.records import WatchResult


class SftRow(Record):
    """One supervised example: the loss is on `completion` only.

    `source_id` is the id of the revision or answer the completion was taken from; `principle` is the `id@version` the
    last revision answered to, None for any other answer. An answer that was cut at its token limit is not `complete`:
    it is trained on as the beginning that it is, without an end of turn.
    """

    prompt: Dialogue
    completion: str
    source_id: str
    principle: str | None
    origin: Literal["revision", "helpful", "best_of_n"]
    complete: bool = True


def without_absent(record: Record, written: dict[str, object], names: tuple[str, ...]) -> dict[str, object]:
    """What is written of a record, without fields that came later and stand at their defaults.

    Records of runs made before those fields keep their bytes, and with them their digests.
    """
    fields = type(record).model_fields
    absent = {name for name in names if getattr(record, name) == fields[name].default}
    return {name: value for name, value in written.items() if name not in absent}


class PreferenceRow(Record):
    """One labelled comparison, turned so that `chosen` is at least as probable as `rejected`.

    `dataset` names the file a person's preference stands in. `principle_text` is what a principle-conditioned model
    reads behind the answer; None for a row of a model that is not.
    """

    messages: Dialogue
    chosen: str
    rejected: str
    probability: Annotated[float, Field(ge=0.5, le=1)]
    preference_id: str
    comparison_id: str
    source: Literal["ai", "human", "provenance"]
    principles: tuple[str, ...]
    weight: Annotated[float, Field(gt=0)] = 1.0
    """In the loss, relative to other rows."""
    dataset: str | None = None
    principle_text: str | None = None

    @property
    def origin(self) -> str:
        """The source, with the data set where there is one: `human:helpful.jsonl`."""
        return self.source if self.dataset is None else f"{self.source}:{self.dataset}"

    @model_serializer(mode="wrap")
    def _without_absent(self, handler: SerializerFunctionWrapHandler) -> dict[str, object]:
        return without_absent(self, handler(self), ("weight", "dataset", "principle_text"))


class Grade(Record):
    """What a judge was asked of one rollout, and what its score was made from.

    `logprobs` are those of the grades, the lowest first, and none where one of them is not finite. Of a principle that
    is not for every prompt `applies` is what the judge said before; where it said no it was asked for no grade.
    """

    principle_digest: str
    template_digest: str
    logprobs: tuple[float, ...] = ()
    mass: float | None = None
    applies: Said | None = None


class RewardPart(Record):
    """What one part of the reward said of one rollout.

    `name` is a principle's `id@version`, or `preference_model`; `by` the judge, check or preference model that said it.
    `score` is None where the part has no opinion of this rollout, or failed: `error` says how. `grade` is a judge's
    alone; rows written before it was kept have none.
    """

    name: str
    kind: RewardKind
    by: str
    weight: float
    score: float | None
    error: str | None = None
    grade: Grade | None = None

    @property
    def silent(self) -> bool:
        """Whether it has no opinion of this rollout, and adds nothing."""
        return self.score is None and self.error is None

    @model_serializer(mode="wrap")
    def _without_absent(self, handler: SerializerFunctionWrapHandler) -> dict[str, object]:
        return without_absent(self, handler(self), ("grade",))


def weighted_sum(parts: Sequence[RewardPart]) -> float | None:
    """The reward its parts come to; None where one failed, or none has an opinion."""
    said = [part for part in parts if not part.silent]
    if any(part.score is None for part in said) or not said:
        return None
    return sum(part.weight * part.score for part in said if part.score is not None)


class RewardRow(Record):
    """One reward of one rollout.

    `score` is None for an empty completion, and where a part of the reward failed: it gets no reward, not a low one.
    `parts` are written where the recipe names `rewards`; else the preference model's score is the whole reward.
    """

    prompt_id: str
    step: int
    completion: str
    score: float | None
    preference_model: str | None
    parts: tuple[RewardPart, ...] = ()

    @model_serializer(mode="wrap")
    def _without_absent_parts(self, handler: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Rows of the preference model alone are written as they were before there were parts."""
        fields: dict[str, object] = handler(self)
        if not self.parts:
            fields.pop("parts", None)
        return fields


class SftResult(Record):
    """Figures of a supervised run. Losses are mean negative log-likelihoods (nats) per completion token."""

    rows: int
    failures: tuple[Failure, ...]
    control_tokens: int
    steps: int
    trainable_parameters: int
    first_loss: float
    last_loss: float


class Agreement(Record):
    """How a preference model agrees with soft labels it was not trained on.

    `n` counts the rows whose label prefers one side, the ones `accuracy` and its 95 % `interval` are over; rows
    labelled exactly 0.5 count in `calibration_error` only. Where there is nothing to count, the figure is None.
    """

    n: int
    correct: int
    accuracy: float | None
    interval: Interval
    calibration_error: float | None


class NamedAgreement(Record):
    """The agreement with one part of the held-out rows."""

    name: str
    agreement: Agreement


class MemberResult(Record):
    """One member of an ensemble, measured alone; `probe` is what its first head alone agreed with."""

    model: str
    seed: int
    train_loss: float
    heldout: Agreement
    probe: Agreement | None = None

    @model_serializer(mode="wrap")
    def _without_absent(self, handler: SerializerFunctionWrapHandler) -> dict[str, object]:
        return without_absent(self, handler(self), ("probe",))


class PreferenceModelResult(Record):
    """Figures of a preference-model run. `train_loss` is the mean over the run, in nats per comparison.

    `by_source` parts the held-out rows by where their labels come from, human data sets by name; `by_principle` asks
    of each principle whether the model agrees with its own opinions. Of an ensemble `heldout` is the agreement of the
    combined score, `steps` are those of all members, `train_loss` is their mean. `probe` is the agreement of the
    first head before training, where it was fitted: what training is to beat.
    """

    rows: int
    failures: tuple[Failure, ...]
    control_tokens: int
    steps: int
    trainable_parameters: int
    train_loss: float
    heldout: Agreement
    model: str
    by_source: tuple[NamedAgreement, ...] = ()
    by_principle: tuple[NamedAgreement, ...] = ()
    members: tuple[MemberResult, ...] = ()
    probe: Agreement | None = None

    @model_serializer(mode="wrap")
    def _without_absent(self, handler: SerializerFunctionWrapHandler) -> dict[str, object]:
        return without_absent(self, handler(self), ("by_source", "by_principle", "members", "probe"))


class RlResult(Record):
    """Figures of an RL run.

    `zero_spread_groups` of the `groups` gave all their completions the same reward (or rewarded fewer than two), so
    they taught nothing; a group is a prompt's completions of one step, under `ppo` the whole step. `unrewarded`
    completions were left out because a part of their reward failed. `first_reward` and `last_reward` are mean
    rewards at the first and last step (of `best_of_n`, before it), `last_kl` the mean KL to the starting policy in
    nats per token (None when `kl` is 0). `rows` is how many comparisons (`dpo`) or best answers (`best_of_n`) were
    trained on.
    """

    prompts: int
    failures: tuple[Failure, ...]
    control_tokens: int
    steps: int
    trainable_parameters: int
    completions: int
    empty_completions: int
    groups: int
    zero_spread_groups: int
    first_reward: float | None
    last_reward: float | None
    last_kl: float | None
    preference_model: str | None
    unrewarded: int = 0
    rows: int = 0
    watch: WatchResult | None = None

    @model_serializer(mode="wrap")
    def _without_absent_counts(self, handler: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Figures of a run without such rows are written as they were before there were any."""
        fields: dict[str, object] = handler(self)
        return {name: value for name, value in fields.items() if name not in ("unrewarded", "rows", "watch") or value}
