"""The algorithms of the step `rl`: what each reads, what its key holds, and the call that trains."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from constitutional.pipeline.apart import conversation_digest
from constitutional.pipeline.context import MODEL_NAMES, Context, Done
from constitutional.pipeline.inputs import Inputs
from constitutional.pipeline.preference_rows import human_comparisons, preferences_key
from constitutional.pipeline.rewarding import open_rewards, rewards_key
from constitutional.pipeline.watching import OnAnswers, canaries, open_watch, probe_prompts, watch_key
from constitutional.records import Prompt, seed_for
from constitutional.runs import StageResult
from constitutional.settings import DpoSettings, PpoSettings
from constitutional.training.rows import PreferenceRow, RlResult


def rl_inputs(ctx: Context, done: Done) -> dict[str, StageResult]:
    """The results of earlier steps that the algorithm reads."""
    settings = ctx.recipe.rl
    if settings.algorithm == "dpo":
        names = ["label"] if "label" in done else []
    else:
        watched = settings.watch is not None and settings.watch.heldout == "judge"
        graded = watched or any(part.kind == "judge" for part in settings.parts)
        names = [name for name, read in (("pm", settings.needs_preference_model), ("gate", graded)) if read]
    return {name: done[name] for name in (*names, *(["sft"] if "sft" in done else []))}


def rl_key(ctx: Context, done: Done) -> dict[str, object]:
    """What the stage's result depends on besides its inputs."""
    settings = ctx.recipe.rl
    said = {name: value for name, value in settings.model_dump(mode="json").items() if name != "report_to"}
    key: dict[str, object] = {"settings": said, "seed": ctx.recipe.seed, **ctx.start_key(done)}
    if settings.algorithm == "dpo":
        return {**key, **preferences_key(ctx, done, human_comparisons(ctx))}
    prompts = ctx.prompts_key(rl_prompts(ctx))
    return {
        **key,
        "prompts": prompts,
        "temperature": _temperature(ctx),
        **rewards_key(ctx),
        **watch_key(ctx, _all_prompts(ctx)),
    }


def rl_prompts(inputs: Inputs) -> list[Prompt]:
    """The prompts to train on: red-team and helpful ones in turn, in a seeded order, without those of the watch.

    What the watch asks is told apart by what it says: the same conversation may stand in the files of two kinds.
    """
    prompts, watch = _all_prompts(inputs), inputs.recipe.rl.watch
    if watch is None:
        return prompts
    asked = {conversation_digest(p.messages) for p in (*probe_prompts(inputs, prompts), *canaries(inputs, watch))}
    return [prompt for prompt in prompts if conversation_digest(prompt.messages) not in asked]


def _all_prompts(inputs: Inputs) -> list[Prompt]:
    kinds = [inputs.select("red_team", "train"), inputs.select("helpful", "train")]
    for kind in kinds:
        random.Random(seed_for(inputs.recipe.seed, "rl")).shuffle(kind)
    return _interleaved(*kinds)


def optimise_on_rows(ctx: Context, rows: Sequence[PreferenceRow], common: Mapping[str, Any]) -> RlResult:
    """Trains on labelled comparisons; `common` is what every algorithm takes."""
    from constitutional.training.dpo import train_dpo

    settings = ctx.recipe.rl.dpo or DpoSettings()
    return train_dpo(rows, beta=settings.beta, labels=settings.labels, trl=ctx.recipe.rl.trl, **common)


def optimise_on_rewards(
    ctx: Context, done: Done, prompts: Sequence[Prompt], common: Mapping[str, Any], on_answers: OnAnswers
) -> RlResult:
    """Trains on rewarded answers of the policy's own.

    Args:
        ctx: the run.
        done: results of earlier steps.
        prompts: of `rl_prompts`.
        common: what every algorithm takes.
        on_answers: told of the answers of each probe, where the run is watched.
    """
    settings = ctx.recipe.rl
    drawn: dict[str, Any] = {
        **common,
        "rewards": open_rewards(ctx, done),
        "generations": settings.generations,
        "max_tokens": settings.max_tokens,
        "temperature": _temperature(ctx) or 1.0,
    }
    if settings.algorithm == "best_of_n":
        from constitutional.training.best_of_n import train_best_of_n

        return train_best_of_n(prompts, trl=settings.trl, **drawn)
    stepped: dict[str, Any] = {
        "steps": settings.steps,
        "kl": settings.kl,
        "prompts_per_step": settings.prompts_per_step,
    }
    if settings.watch is not None:
        by = [source.by for source in drawn["rewards"]]
        stepped["watching"] = open_watch(ctx, done, probe_prompts(ctx, _all_prompts(ctx)), by, on_answers)
    if settings.algorithm == "ppo":
        from constitutional.training.ppo.stage import train_ppo

        scorer = done["pm"].folder / MODEL_NAMES["pm"] if "pm" in done else None
        chosen = settings.ppo or PpoSettings()
        return train_ppo(prompts, preference_model=scorer, settings=chosen, **stepped, **drawn)
    from constitutional.training.rl import train_rl

    algorithm: Literal["grpo", "rloo"] = "grpo" if settings.algorithm == "grpo" else "rloo"
    return train_rl(prompts, algorithm=algorithm, trl=settings.trl, **stepped, **drawn)


def _temperature(ctx: Context) -> float:
    return ctx.sampling("policy", temperature=ctx.recipe.sample.temperature).temperature


def _interleaved(one: list[Prompt], other: list[Prompt]) -> list[Prompt]:
    """Both lists, taken in turn, so that any number of steps sees both kinds."""
    pairs = [p for pair in zip(one, other, strict=False) for p in pair]
    return [*pairs, *one[len(other) :], *other[len(one) :]]
