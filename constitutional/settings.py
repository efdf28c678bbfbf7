"""What a recipe may say: one small frozen model for each section."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from constitutional.errors import nearest
from constitutional.loop_settings import PerplexitySettings, PromotionSettings
from constitutional.records import Mode, PromptKind, Record
from constitutional.watch_settings import WatchSettings

StageName = Literal["revise", "helpful", "sft", "sample", "gate", "judge", "label", "pm", "rl", "answers", "evaluate"]
READS_NO_PROMPTS: frozenset[StageName] = frozenset({"sample", "gate", "judge"})
"""Steps that need no prompts where `sample.pairs` brings the comparisons."""
Scalar = bool | int | float | str | None
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Algorithm = Literal["ppo", "grpo", "rloo", "dpo", "best_of_n"]
CriticKind = Literal["preference_model", "policy", "head"]
RewardKind = Literal["preference_model", "judge", "check"]
Tracker = Literal["tensorboard", "wandb", "trackio"]


def _spec(value: str) -> str:
    if ":" not in value.strip(":"):
        raise ValueError("expected a model spec KIND:NAME")
    return value


def _spec_or_self(value: str) -> str:
    return value if value == "self" else _spec(value)


Spec = Annotated[str, AfterValidator(_spec)]
SpecOrSelf = Annotated[str, AfterValidator(_spec_or_self)]


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

    Those of lowest id are taken, a draw by content; with fewer there, training does not begin.
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
    time.
    """

    contrast: Annotated[float, Field(ge=0)] = 0.0
    heldout: Annotated[float, Field(gt=0, lt=1)] = 0.2
    human: tuple[HumanPreferences, ...] = ()
    ai_weight: Annotated[float, Field(ge=0)] = 1.0
    margin: Annotated[float, Field(ge=0)] = 0.0
    conditioned: bool = False
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
        later = ("human", "ai_weight", "margin", "conditioned", "ensemble", "rows", "lora")
        fields = type(self).model_fields
        absent = {name for name in later if getattr(self, name) == fields[name].default}
        return {name: value for name, value in handler(self).items() if name not in absent}


class RewardSettings(Record):
    """One part of the reward; the reward of a rollout is the weighted sum of the parts.

    `judge`: the judge grades each rollout alone (direct RLAIF, Lee et al. 2023), on a scale from -1 to 1, under the
    `score_request` of its principles. `check`: principles that are code, from 0 to 1. `principles` names them; None is
    all that have what is asked. `draw: one` asks of each prompt's rollouts one principle, drawn by the prompt, where
    `all` asks every one and adds up; `weight` is of each.
    """

    kind: RewardKind
    weight: Annotated[float, Field(allow_inf_nan=False)] = 1.0
    principles: tuple[str, ...] | None = None
    draw: Literal["all", "one"] = "all"

    @model_validator(mode="after")
    def _principles_are_asked(self) -> Self:
        if self.kind == "preference_model" and (self.principles is not None or self.draw != "all"):
            raise ValueError("a preference model asks no principles: leave `principles` and `draw` out")
        return self


class PpoSettings(Record):
    """PPO. Rates are of Adam, constant; `clip` and `value_clip` None leave ratios and values free.

    The critic starts from the preference model, as a copy of the policy with a head of zeros, or is a value `head` on
    the policy itself. With `kl_target` (nats a rollout) the coefficient `rl.kl` is where the adaptive one starts.
    `micro_batch` is how many rollouts go through a network at a time, and changes nothing but memory.
    """

    critic: CriticKind = "preference_model"
    learning_rate: Rate = 5e-6
    critic_learning_rate: Rate = 1e-5
    epochs: Count = 4
    minibatches: Count = 1
    micro_batch: Count = 8
    gamma: Share = 1.0
    lam: Share = 0.95
    clip: Rate | None = 0.2
    value_clip: Rate | None = 0.2
    value_weight: Annotated[float, Field(ge=0)] = 0.5
    whiten_rewards: bool = False
    whiten_advantages: bool = True
    max_grad_norm: Rate = 1.0
    kl_target: Rate | None = None
    kl_horizon: Count = 10_000


class DpoSettings(Record):
    """DPO on preferences: `beta` weighs the divergence from SL-CAI, `labels` are kept soft or rounded.

    They are the run's own labels, and with `pm.human` people's preferences too: the same rows, of the same weights
    (`pm.ai_weight`, `pm.rows`), as the preference model's. Each principle's opinion is the preference model's alone.
    """

    beta: Rate = 0.1
    labels: Literal["soft", "hard"] = "soft"


_DRAWS = ("steps", "kl", "generations", "prompts_per_step", "max_tokens", "rewards", "watch")
USED_BY: dict[str, tuple[str, ...]] = {
    "grpo": (*_DRAWS, "lora", "trl", "report_to"),
    "rloo": (*_DRAWS, "lora", "trl", "report_to"),
    "ppo": (*_DRAWS, "lora", "ppo", "report_to"),
    "dpo": ("lora", "trl", "dpo", "report_to"),
    "best_of_n": ("generations", "max_tokens", "rewards", "lora", "trl", "report_to"),
}
"""What each algorithm of `rl` looks at; naming anything else beside it is refused."""


class RlSettings(Record):
    """The policy against its reward; `kl` weighs the divergence from SL-CAI.

    Without `rewards` the preference model alone rewards. `trl` holds fields of the algorithm's TRL config (of
    `SFTConfig` for `best_of_n`, which fine-tunes on the best of `generations` answers to each prompt). `report_to`
    sends every logged figure to trackers, too, and is no part of what the stage is known by.
    """

    algorithm: Algorithm = "rloo"
    steps: Count = 10
    kl: Annotated[float, Field(ge=0)] = 0.05
    generations: Count = 4
    prompts_per_step: Count = 4
    max_tokens: Count = 64
    rewards: tuple[RewardSettings, ...] = ()
    watch: WatchSettings | None = None
    report_to: tuple[Tracker, ...] = ()
    lora: LoraSettings | None = None
    trl: dict[str, Scalar] = Field(default_factory=dict)
    ppo: PpoSettings | None = None
    dpo: DpoSettings | None = None

    @property
    def parts(self) -> tuple[RewardSettings, ...]:
        """The parts of the reward."""
        return self.rewards or (RewardSettings(kind="preference_model"),)

    @property
    def needs_preference_model(self) -> bool:
        """Whether the preference model rewards, or a critic starts from it."""
        if self.algorithm == "dpo":
            return False
        critic = self.algorithm == "ppo" and (self.ppo or PpoSettings()).critic == "preference_model"
        return critic or any(part.kind == "preference_model" for part in self.parts)

    @model_validator(mode="after")
    def _what_is_ignored_is_refused(self) -> Self:
        used = USED_BY[self.algorithm]
        for name in sorted(self.model_fields_set - {"algorithm"}):
            if name not in used and getattr(self, name) is not None:
                raise ValueError(f"{name} is not used by algorithm {self.algorithm} (it uses {', '.join(used)})")
        if self.algorithm in ("grpo", "rloo", "best_of_n") and self.generations < 2:
            raise ValueError(f"generations: {self.algorithm} compares answers to one prompt and needs at least 2")
        if self.ppo is not None and self.ppo.kl_target is not None and self.kl == 0:
            raise ValueError("ppo.kl_target: the adaptive coefficient starts from kl, which is 0")
        if self.lora is not None and self.lora.dropout and self.algorithm == "ppo":
            raise ValueError(
                "lora.dropout is not used by algorithm ppo: it would part the policy from its own rollouts"
            )
        if sum(part.kind == "preference_model" for part in self.rewards) > 1:
            raise ValueError("rewards: the preference model is named twice")
        if self.watch is not None and self.kl == 0 and any(rule.figure == "kl" for rule in self.watch.rules):
            raise ValueError("watch.rules: with kl 0 there is no reference to measure kl against")
        return self

    @model_serializer(mode="wrap")
    def _only_what_is_used(self, handler: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Settings of other algorithms are left out; of a recipe that names no new ones nothing changes."""
        fields: dict[str, object] = handler(self)
        if self.algorithm == "ppo" and self.ppo is None:
            fields["ppo"] = PpoSettings().model_dump()
        if self.algorithm == "dpo" and self.dpo is None:
            fields["dpo"] = DpoSettings().model_dump()
        absent = {
            "rewards": not self.rewards,
            "lora": self.lora is None,
            "watch": self.watch is None,
            "report_to": not self.report_to,
        }
        used = ("algorithm", *USED_BY[self.algorithm])
        return {name: value for name, value in fields.items() if name in used and not absent.get(name)}


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


_LOOP = ("rounds", "promotion")


class Recipe(Record):
    """One run, fully written out. Paths are texts as written; `config.resolve_path` finds them.

    `dtype` is what torch models compute in; `auto` is the one this machine is fast at.

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
    chunk_size: Count = 16
    checkpoint_every: Count | None = 50
    stages: tuple[StageName, ...] | None = None
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
        """A recipe without rounds is written as before there were any."""
        fields: dict[str, object] = handler(self)
        if self.checkpoint_every == type(self).model_fields["checkpoint_every"].default:
            fields.pop("checkpoint_every", None)
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
