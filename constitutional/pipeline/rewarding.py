"""The parts of RL's reward as a recipe names them, opened: preference model, judge under its principles, checks."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from constitutional.backends import Backend
from constitutional.errors import ConfigError, GateError, nearest
from constitutional.feedback.applies import Applicability, applies
from constitutional.feedback.judging.direct import grade_answers
from constitutional.pipeline.context import MODEL_NAMES, Context, Done, Lazy
from constitutional.pipeline.inputs import Inputs
from constitutional.pipeline.judging_steps import load_gate
from constitutional.pipeline.preference_rows import conditions
from constitutional.principles import Principle
from constitutional.records import Prompt, seed_for
from constitutional.settings import RewardSettings
from constitutional.training.pm_folder import Condition
from constitutional.training.rewards import RewardSource, Scored, by_check, by_preference_model
from constitutional.training.rows import Grade


def reward_principles(inputs: Inputs, part: RewardSettings) -> list[Principle]:
    """The principles a part of the reward asks, in constitution order; none of a preference model.

    Raises:
        ConfigError: one that is named is not there or lacks what is asked, or there is none.
    """
    if part.kind == "preference_model":
        return []
    principles = [p for p in inputs.constitution.principles if "judge" in p.phases]
    if part.kind == "check":
        known = {p.id: p for p in principles if p.ref in inputs.checks}
        lacking = "check"
    else:
        known = {p.id: p for p in principles if p.score_request is not None and p.ref not in inputs.checks}
        lacking = "score_request"
    for name in part.principles or ():
        if name not in known:
            raise ConfigError(f"rl.rewards: no principle '{name}' with a {lacking}{nearest(name, known)}")
    found = [p for p in known.values() if part.principles is None or p.id in part.principles]
    if not found:
        raise ConfigError(f"rl.rewards: no principle of {inputs.constitution.ref} has a {lacking}")
    return found


def check_rewards(inputs: Inputs, steps: Sequence[str]) -> None:
    """What can be known of RL before a run: the steps it needs, and principles that can reward.

    Raises:
        ConfigError: a step is left out, a principle cannot reward, or two parts would go by one name.
    """
    settings = inputs.recipe.rl
    if "rl" not in steps:
        return
    judged = settings.algorithm != "dpo" and any(part.kind == "judge" for part in settings.parts)
    labels_needed = settings.algorithm == "dpo" and not inputs.recipe.pm.human
    needed = {"label": labels_needed, "pm": settings.needs_preference_model, "gate": judged}
    for step, wanted in needed.items():
        if wanted and step not in steps:
            raise ConfigError(f"stages: 'rl' needs '{step}', which is left out")
    names = [p.ref for part in settings.parts for p in reward_principles(inputs, part)]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"rl.rewards: principle {name} is named twice")


def rewards_key(ctx: Context) -> dict[str, object]:
    """What the key of the RL stage holds of principles: those that judge, check, or condition the preference model.

    Nothing where only a preference model rewards that reads none.
    """
    parts = ctx.recipe.rl.parts
    judged, coded = (
        [p for part in parts if part.kind == kind for p in reward_principles(ctx, part)] for kind in ("judge", "check")
    )
    key = ctx.code_key(coded) | (judge_key(ctx, judged) if judged else {})
    if any(part.kind == "preference_model" for part in parts) and (asked := _conditions(ctx)):
        key["conditions"] = [condition.model_dump(mode="json") for condition in asked]
    return key


def _conditions(ctx: Context) -> list[Condition]:
    """The principles a conditioned preference model rewards under, as the constitution words and weighs them now."""
    return conditions(ctx) if ctx.recipe.pm.conditioned else []


def _members(ctx: Context) -> list[int] | None:
    """The members of an ensemble that reward: all, or all but the last, which the watch scores by."""
    watch, ensemble = ctx.recipe.rl.watch, ctx.recipe.pm.ensemble
    kept_out = watch is not None and watch.heldout == "member" and ensemble is not None
    return list(range(ensemble.members - 1)) if kept_out and ensemble is not None else None


def kept_out(ctx: Context, done: Done) -> RewardSource:
    """The last member of the preference model's ensemble, as a held-out reward."""
    from constitutional.training.scorer import PreferenceModel

    ensemble = ctx.recipe.pm.ensemble
    assert ensemble is not None
    folder = done["pm"].folder / MODEL_NAMES["pm"]
    return by_preference_model(PreferenceModel(folder, conditions=_conditions(ctx), members=[ensemble.members - 1]))


def judge_sources(ctx: Context, done: Done, weight: float) -> list[RewardSource]:
    """The judge under each of the principles it can grade by, as a held-out reward. Raises as `open_rewards`."""
    part = RewardSettings(kind="judge", weight=weight)
    return list(_judged(ctx, done, reward_principles(ctx, part), part))


def judge_key(ctx: Context, principles: Sequence[Principle]) -> dict[str, object]:
    """What a key holds of a judge that grades answers under some principles."""
    return {
        "graded": [[p.ref, p.score_request] for p in principles],
        "template": ctx.pack.digest("score"),
        "judge": ctx.identity("judge"),
        **ctx.case_key(principles),
    }


def open_rewards(ctx: Context, done: Done) -> list[RewardSource]:
    """The parts of the reward, models open.

    Raises:
        GateError: a judge is to reward that did not pass its gate.
    """
    sources: list[RewardSource] = []
    for part in ctx.recipe.rl.parts:
        if part.kind == "preference_model":
            from constitutional.training.scorer import PreferenceModel

            folder = done["pm"].folder / MODEL_NAMES["pm"]
            scorer = PreferenceModel(folder, conditions=_conditions(ctx), members=_members(ctx))
            sources.append(by_preference_model(scorer, part.weight))
            continue
        principles = reward_principles(ctx, part)
        found = list(_judged(ctx, done, principles, part) if part.kind == "judge" else _checked(ctx, principles, part))
        sources += _one_of(found, ctx.recipe.seed) if part.draw == "one" else found
    return sources


def _checked(ctx: Context, principles: Sequence[Principle], part: RewardSettings) -> Iterator[RewardSource]:
    for principle in principles:
        yield by_check(principle.ref, ctx.checks[principle.ref], part.weight)


def _judged(ctx: Context, done: Done, principles: Sequence[Principle], part: RewardSettings) -> Iterator[RewardSource]:
    gate = load_gate(done["gate"])
    if gate.labels != "judge":
        raise GateError(
            f"rl.rewards: the judge {gate.judge} did not pass its gate, so its grades reward nothing: "
            f"{'; '.join(gate.reasons)}"
        )
    backend = Lazy(ctx, ctx.spec("judge"))
    for principle in principles:
        yield by_judge(ctx, principle, backend.backend, part.weight)


def by_judge(ctx: Context, principle: Principle, backend: Backend, weight: float) -> RewardSource:
    """A judge's grade of the answer under one principle; of prompts it does not apply to it has no opinion."""
    verdicts: dict[str, Applicability] = {}
    grade = Grade(principle_digest=principle.digest, template_digest=ctx.pack.digest("score"))

    def score(prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Scored]:
        new = {p.id: p.messages for p in prompts if p.id not in verdicts}
        if principle.applies_when is not None and new:
            for verdict in applies(new, [principle], backend=backend, pack=ctx.pack, seed=ctx.recipe.seed):
                verdicts[verdict.prompt_id] = verdict
        scored = [Scored()] * len(prompts)
        asked = []
        for i, prompt in enumerate(prompts):
            case = verdicts.get(prompt.id)
            if case is None or case.applies:
                asked.append(i)
                continue
            unread = "the judge did not say whether the principle applies" if case.applies is None else None
            scored[i] = Scored(error=unread, grade=grade.model_copy(update={"applies": case.said}))
        conversations, answers = [prompts[i].messages for i in asked], [texts[i] for i in asked]
        grades = grade_answers(conversations, answers, principle, backend=backend, pack=ctx.pack) if asked else []
        for i, found in zip(asked, grades, strict=True):
            case = verdicts.get(prompts[i].id)
            said = {"logprobs": found.logprobs, "mass": found.mass, "applies": case.said if case else None}
            scored[i] = Scored(found.value, found.error, grade.model_copy(update=said))
        return scored

    return RewardSource(principle.ref, "judge", backend.model, weight, score)


def _one_of(sources: Sequence[RewardSource], seed: int) -> list[RewardSource]:
    """The same parts, each asked only of the prompts it is drawn for: one part a prompt, whatever the step."""

    def drawn(prompt: Prompt) -> int:
        return random.Random(seed_for(seed, "rl", "principle", prompt.id)).randrange(len(sources))

    def narrowed(number: int, source: RewardSource) -> RewardSource:
        def score(prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Scored]:
            mine = [i for i, prompt in enumerate(prompts) if drawn(prompt) == number]
            found = source.score([prompts[i] for i in mine], [texts[i] for i in mine]) if mine else []
            said = dict(zip(mine, found, strict=True))
            return [said.get(i, Scored()) for i in range(len(prompts))]

        return RewardSource(source.name, source.kind, source.by, source.weight, score)

    return [narrowed(number, source) for number, source in enumerate(sources)]
