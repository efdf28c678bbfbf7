"""What a recipe may say of the watch over RL (`rl.watch`)."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from constitutional.records import Record

WatchAction = Literal["stop", "lower_lr", "rollback"]
WatchFigure = Literal[
    "kl",
    "entropy",
    "completions/mean_length",
    "completions/clipped_ratio",
    "repetition",
    "distinct_2",
    "empty",
    "boilerplate",
    "probe/reward",
    "probe/heldout_reward",
    "probe/gap",
    "probe/refusal",
    "probe/repetition",
    "probe/distinct_2",
    "probe/empty",
    "probe/boilerplate",
]
"""Figures a rule of `rl.watch` may bound, by the names they have in metrics.jsonl."""


class WatchRule(Record):
    """A bound on one figure, and what is done when the figure breaks it, once for each time it does.

    Give one of: `above` and `below`, values; `fall`, how far below its highest value so far, in the figure's own unit
    (of a preference model's score: log-odds); `fall_share`, the same as a share of that highest value (0.1 is ten
    percent), for figures that have a true zero (a check's score, a length).

    The bound must be broken at `times` measurements in a row: a figure over few answers jumps about.

    `stop` ends the run with the weights as they are. `rollback` ends it with those of the best probe: the one with the
    highest held-out reward (without `heldout`, the highest reward) of those at which no rule was broken; the starting
    policy counts as one. `lower_lr` multiplies every learning rate by `factor` and goes on.
    """

    figure: WatchFigure
    above: Annotated[float, Field(allow_inf_nan=False)] | None = None
    below: Annotated[float, Field(allow_inf_nan=False)] | None = None
    fall: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    fall_share: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    times: Annotated[int, Field(ge=1)] = 1
    action: WatchAction = "stop"
    factor: Annotated[float, Field(gt=0, lt=1)] | None = None

    @model_validator(mode="after")
    def _one_bound(self) -> Self:
        bounds = [name for name in ("above", "below", "fall", "fall_share") if getattr(self, name) is not None]
        if len(bounds) != 1:
            found = " and ".join(bounds) or "none"
            raise ValueError(f"{self.figure}: expected one of above, below, fall, fall_share (found {found})")
        if (self.factor is not None) != (self.action == "lower_lr"):
            raise ValueError(f"{self.figure}: lower_lr, and no other action, takes a factor")
        return self


def _heldout(value: str) -> str:
    if value not in ("member", "judge") and not (value.startswith("model:") and value != "model:"):
        raise ValueError("expected member, judge or model:FOLDER")
    return value


class WatchSettings(Record):
    """Watching RL for a policy that games its reward. Figures of the answers are noted at every step.

    Every `every` steps, before the first and after the last, a probe has the policy answer `prompts` prompts, red-team
    and helpful in turn, which are taken from those of RL and never trained on by it, and `canaries` benign ones (first
    those of split train, else held-out ones, which the evaluation asks, too). `max_tokens` None is that of `rl`;
    `temperature` 0 takes the likeliest token, else every probe draws from the same random stream.

    `heldout` scores the probes by what the policy is not trained on: `member`, the last member of the preference
    model's ensemble, which is then kept out of the reward; `judge`, its grades under the principles that have a
    `score_request`; or `model:FOLDER`, another preference model. `probe/gap` is what the reward gained since the
    starting policy less what the held-out reward did: it tells most where both are of one unit.
    """

    every: Annotated[int, Field(ge=1)] = 10
    prompts: Annotated[int, Field(ge=1)] = 16
    canaries: Annotated[int, Field(ge=0)] = 16
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0)] = 0.0
    heldout: Annotated[str, AfterValidator(_heldout)] | None = None
    rules: tuple[WatchRule, ...] = ()

    @model_validator(mode="after")
    def _figures_are_measured(self) -> Self:
        for rule in self.rules:
            if rule.figure in ("probe/heldout_reward", "probe/gap") and self.heldout is None:
                raise ValueError(f"rules: {rule.figure} needs heldout")
            if rule.figure == "probe/refusal" and not self.canaries:
                raise ValueError("rules: probe/refusal needs canaries")
        return self
