"""The watch over RL as a recipe names it: which prompts, who scores besides the reward, where events go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from constitutional.config import resolve_path
from constitutional.errors import ConfigError
from constitutional.evaluation.refusal import classify
from constitutional.pipeline.context import Context, Done
from constitutional.pipeline.inputs import Inputs
from constitutional.pipeline.jury import scorer_identity
from constitutional.pipeline.rewarding import judge_key, judge_sources, kept_out, reward_principles
from constitutional.records import Prompt
from constitutional.settings import RewardSettings
from constitutional.settings.watch import WatchSettings
from constitutional.training.pm_folder import weights_identity
from constitutional.training.watch.records import WatchEvent
from constitutional.training.watch.trackers import require_trackers

if TYPE_CHECKING:
    from constitutional.training.watch.probe import Watch

OnAnswers = Callable[[Sequence[Any]], None]
"""Told of the answers of each probe, as records."""


def check_watch(inputs: Inputs, steps: Sequence[str]) -> None:
    """What can be known of the watch before a run: who is to score is there, and not what is trained on.

    Raises:
        ConfigError: it is not, there are no benign prompts for a rule about them, or a tracker is not installed.
    """
    settings = inputs.recipe.rl
    if "rl" not in steps:
        return
    require_trackers(settings.report_to)
    watch = settings.watch
    if watch is None:
        return
    kinds = {part.kind for part in settings.parts}
    if watch.heldout == "member":
        if inputs.recipe.pm.ensemble is None:
            raise ConfigError("rl.watch.heldout: member keeps one of several preference models out: set pm.ensemble")
        if "preference_model" not in kinds:
            raise ConfigError("rl.watch.heldout: member: the preference model does not reward here: see rl.rewards")
    elif watch.heldout == "judge":
        if "judge" in kinds:
            raise ConfigError("rl.watch.heldout: the judge rewards (rl.rewards), so it holds nothing out")
        if "gate" not in steps:
            raise ConfigError("stages: rl.watch.heldout: judge needs 'gate', which is left out")
        reward_principles(inputs, RewardSettings(kind="judge"))
    elif watch.heldout is not None:
        scorer_identity(_folder_spec(inputs, watch.heldout))
    if any(rule.figure == "probe/refusal" for rule in watch.rules) and not canaries(inputs, watch):
        raise ConfigError("rl.watch.rules: probe/refusal needs benign prompts (prompts.benign)")


def probe_prompts(inputs: Inputs, prompts: Sequence[Prompt]) -> list[Prompt]:
    """The first of RL's prompts, which the watch asks and nothing trains on; none where nothing is watched."""
    watch = inputs.recipe.rl.watch
    return list(prompts[: watch.prompts]) if watch is not None else []


def canaries(inputs: Inputs, watch: WatchSettings) -> list[Prompt]:
    """Benign prompts, those of split train first."""
    return [*inputs.select("benign", "train"), *inputs.select("benign", "heldout")][: watch.canaries]


def watch_key(ctx: Context, prompts: list[Prompt]) -> dict[str, object]:
    """What the key of the RL stage holds of its watch besides the settings; nothing where there is none.

    `prompts` are all of RL, those of the watch among them.
    """
    watch = ctx.recipe.rl.watch
    if watch is None:
        return {}
    key: dict[str, object] = {
        "prompts": ctx.prompts_key(probe_prompts(ctx, prompts)),
        "canaries": ctx.prompts_key(canaries(ctx, watch)),
    }
    if watch.heldout == "judge":
        key |= judge_key(ctx, reward_principles(ctx, RewardSettings(kind="judge")))
    elif watch.heldout is not None and watch.heldout != "member":
        key["heldout"] = scorer_identity(_folder_spec(ctx, watch.heldout))
    return {"watch": key}


def open_watch(
    ctx: Context, done: Done, prompts: Sequence[Prompt], rewarded_by: Sequence[str], on_answers: OnAnswers
) -> Watch:
    """The watch with its models open.

    Args:
        ctx: the run.
        done: results of earlier steps.
        prompts: of `probe_prompts`.
        rewarded_by: identities of what rewards.
        on_answers: told of the answers of each probe.

    Raises:
        ConfigError: the held-out preference model is the one that rewards.
        GateError: the judge is to score that did not pass its gate.
    """
    from constitutional.training.rewards import RewardSource, by_preference_model
    from constitutional.training.scorer import PreferenceModel
    from constitutional.training.watch.probe import Watch

    settings = ctx.recipe.rl.watch
    assert settings is not None
    heldout: list[RewardSource] = []
    if settings.heldout == "member":
        heldout = [kept_out(ctx, done)]
    elif settings.heldout == "judge":
        count = len(reward_principles(ctx, RewardSettings(kind="judge")))
        heldout = judge_sources(ctx, done, 1 / count)
    elif settings.heldout is not None:
        scorer = PreferenceModel(_folder_spec(ctx, settings.heldout).partition(":")[2])
        if weights_identity(scorer.model) in {weights_identity(name) for name in rewarded_by}:
            raise ConfigError(f"rl.watch.heldout: {settings.heldout} is the preference model that rewards")
        heldout = [by_preference_model(scorer)]
    return Watch(
        settings,
        prompts,
        canaries(ctx, settings),
        heldout,
        refuses=lambda prompt, text: classify(prompt.messages[-1].content, text) == "refusal",
        on_event=lambda event: _tell(ctx, event),
        on_answers=on_answers,
    )


def _tell(ctx: Context, event: WatchEvent) -> None:
    ctx.folder.event("watch", stage="rl", **event.model_dump(mode="json"))
    ctx.display.say(f"rl: {event.line}: {event.action.replace('_', ' ')}")


def _folder_spec(inputs: Inputs, spec: str) -> str:
    return f"model:{resolve_path(inputs.recipe_file, spec.partition(':')[2])}"
