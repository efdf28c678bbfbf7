"""The loop: the last promoted model is the next round's policy; each round is a run folder over one shared store.

    NAME/  run.yaml  rounds.json  events.jsonl  stages/ ledger.sqlite ... (shared)  rounds/1/ rounds/2/ ...
           latest -> rounds/N, and what else a run folder has, as links to that round's

A round has the recipe's steps, a seed of its own (so that a policy that stays gets other draws), and held-out prompts
that no other round has. Training prompts are the same in all rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from constitutional.audit.rounds import FOLDER, ROUNDS, Round, Rounds, read_rounds
from constitutional.backends.identity import identify
from constitutional.backends.specs import default_sampling
from constitutional.display import Display, Silent
from constitutional.errors import ConfigError, RunError
from constitutional.evaluation.answers import System
from constitutional.evaluation.evaluate import KINDS, Evaluation
from constitutional.evaluation.promotion import decide, least_prompts
from constitutional.feedback.judging.ways import DRAWING
from constitutional.pipeline.apart import heldout_parts
from constitutional.pipeline.context import MODEL_NAMES, Done
from constitutional.pipeline.inputs import Inputs
from constitutional.pipeline.judging_steps import load_gate
from constitutional.pipeline.shared import link, share
from constitutional.records import Prompt, seed_for, short_digest
from constitutional.runs import StageResult, open_run, write_atomic
from constitutional.settings import Recipe, RoleSampling, SamplingSettings
from constitutional.settings.loop import PerplexitySettings, PromotionSettings

if TYPE_CHECKING:
    from constitutional.pipeline import StepOutcome

Run = Callable[[Inputs, Path, str | None], tuple["StepOutcome", ...]]
"""Runs the steps of one round in a folder, up to a step."""

LATEST = "latest"
_OF_LATEST = (
    "lock.json",
    "constitution.json",
    "constitutions",
    "prompts.jsonl",
    "current.json",
    "report.html",
    "report.json",
)
_MODEL: dict[str, System] = {"rl": "rl-cai", "sft": "sl-cai"}
"""The step whose model a round is about, the first of them that the recipe has."""


def check_rounds(inputs: Inputs, steps: Sequence[str]) -> None:
    """What can be known of a loop before it begins; nothing of a recipe without one.

    Raises:
        ConfigError: a step is left out without which no round can be judged.
        DataError: too few held-out prompts.
    """
    if inputs.recipe.rounds is None:
        return
    settings = inputs.recipe.promotion or PromotionSettings()
    needed = {"judge": ["gate"], "preference_model": ["pm"], "compliance": []}[settings.figure]
    for step in ("answers", "evaluate", *needed):
        if step not in steps:
            raise ConfigError(
                f"rounds: promotion by '{settings.figure}' needs the step '{step}', which stages leaves out"
            )
    if not set(_MODEL) & set(steps):
        raise ConfigError("rounds: no step makes a new policy: stages needs 'sft' or 'rl'")
    limit, least = inputs.recipe.evaluation.judge_limit, least_prompts(settings.figure)
    if settings.figure == "judge" and limit is not None and limit < least:
        raise ConfigError(f"evaluation.judge_limit: {limit} pairs can promote no model: at least {least}")
    heldout_parts(inputs, steps)


def check_folder(run_folder: Path, *, rounds: bool) -> None:
    """A folder holds a run with rounds or one without.

    Raises:
        RunError: it holds the other kind.
    """
    if (run_folder / "run.yaml").exists() and (run_folder / FOLDER).is_dir() != rounds:
        raise RunError(f"{run_folder} holds a run {'without' if rounds else 'with'} rounds: give another --out")


def run_rounds(
    inputs: Inputs, steps: Sequence[str], run_folder: Path, run: Run, *, until: str | None, display: Display | None
) -> tuple[StepOutcome, ...]:
    """Runs the rounds of a recipe; a round that is finished under the same settings is reused.

    Args:
        inputs: of the recipe as written.
        steps: those of every round.
        run_folder: made when absent, locked while the rounds last.
        run: runs one round.
        until: the last step to run in the first round that is not finished; then the loop ends.
        display: where progress is told.

    Returns:
        The steps of all rounds.
    """
    recipe, shown = inputs.recipe, display or Silent()
    check_folder(run_folder, rounds=True)
    parts = heldout_parts(inputs, steps)
    with open_run(run_folder) as folder:
        (folder.path / FOLDER).mkdir(exist_ok=True)
        write_atomic(folder.path / "run.yaml", yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False))
        before = read_rounds(folder.path)
        known = before.rounds if before else ()
        rounds = Rounds(start=inputs.identity("policy"), of=len(parts), rounds=())
        if before is None:
            write_atomic(folder.path / ROUNDS, rounds.to_json() + "\n")
        policy = recipe.policy
        outcomes: list[StepOutcome] = []
        for number, part in enumerate(parts, start=1):
            own = round_inputs(inputs, number, part, policy)
            place = share(folder.path, f"{FOLDER}/{number}")
            shown.say(f"round {number} of {len(parts)}: policy {own.identity('policy')}")
            stop = until if number > len(known) else None
            try:
                made = run(own, place, stop)
            finally:
                if (place / "current.json").exists():
                    _show(folder.path, place)
            outcomes += made
            if stop is not None:
                break
            done = {step.name: step.result for step in made}
            found = _decided(own, number, done, recipe.promotion or PromotionSettings())
            rounds = rounds.model_copy(update={"rounds": (*rounds.rounds, found)})
            same = known[:number] == rounds.rounds
            kept = rounds.model_copy(update={"rounds": known if same else rounds.rounds})
            write_atomic(folder.path / ROUNDS, kept.to_json() + "\n")
            verdict = "promoted" if found.promotion.promoted else "not promoted, its policy stays"
            shown.say(f"round {number}: {found.system} {verdict}: {found.promotion.why}")
            if not same:
                known = ()  # what followed from another decision
                folder.event(
                    "promotion", round=number, promoted=found.promotion.promoted, model=found.model,
                    policy=found.policy, why=found.promotion.why,
                )  # fmt: skip
            if found.promotion.promoted:
                policy = _spec(_trained(done))
                name = MODEL_NAMES[_trained(done).manifest.stage]
                link(folder.path / "models" / "policy", _trained(done).folder.resolve() / name)
    return tuple(outcomes)


def round_inputs(inputs: Inputs, number: int, part: Sequence[Prompt], policy: str) -> Inputs:
    """The inputs of one round: its policy, its seed, its held-out prompts; no loop any more."""
    recipe, held = inputs.recipe, {prompt.id for prompt in part}
    given = recipe.evaluation.perplexity or PerplexitySettings()
    measured = given.answers is not None or any(p.kind == "helpful" for p in part)
    perplexity = given.model_copy(update={"start": given.start or recipe.policy}) if measured else None
    own = recipe.model_copy(
        update={
            "name": f"{recipe.name[:64]}.round-{number}",
            "seed": recipe.seed if number == 1 else seed_for(recipe.seed, "round", number) % 2**31,
            "policy": policy,
            "evaluation": recipe.evaluation.model_copy(update={"perplexity": perplexity}),
            "rounds": None,
            "promotion": None,
            **(_drawn_as_before(recipe) if policy != recipe.policy else {}),
        }
    )
    prompts = tuple(p for p in inputs.prompts if p.split == "train" or p.id in held)
    return replace(inputs, recipe=own, prompts=prompts)


def _drawn_as_before(recipe: Recipe) -> dict[str, object]:
    """Sampling written out: a trained model is drawn from as the model it was trained from."""
    default = SamplingSettings(**default_sampling(recipe.policy).model_dump(include=set(SamplingSettings.model_fields)))

    def over(settings: SamplingSettings) -> SamplingSettings:
        return default.model_copy(update=settings.model_dump(exclude_none=True))

    roles, judging = recipe.sampling, recipe.judging
    own = recipe.feedback == "self"
    changed: dict[str, object] = {
        "sampling": RoleSampling(policy=over(roles.policy), feedback=over(roles.feedback) if own else roles.feedback)
    }
    if judging.mode in DRAWING and (recipe.judge == "self" or (recipe.judge is None and own)):
        default_of_mode = judging.sampling or SamplingSettings()
        changed["judging"] = judging.model_copy(update={"sampling": over(default_of_mode)})
    return changed


def _decided(inputs: Inputs, number: int, done: Done, settings: PromotionSettings) -> Round:
    evaluation = Evaluation.model_validate_json((done["evaluate"].folder / "evaluation.json").read_bytes())
    trained = _trained(done)
    system = _MODEL[trained.manifest.stage]
    passed = load_gate(done["gate"]).passed if "gate" in done else None
    held = [p for kind in KINDS for p in inputs.select(kind, "heldout")]
    return Round(
        round=number,
        seed=inputs.recipe.seed,
        policy=inputs.identity("policy"),
        model=identify(_spec(trained), inputs.recipe.dtype),
        system=system,
        heldout=short_digest([p.id for p in held]),
        prompts={kind: n for kind in KINDS if (n := sum(p.kind == kind for p in held))},
        step=trained.key,
        promotion=decide(evaluation, system, settings, judge_passed=passed),
    )


def _trained(done: Done) -> StageResult:
    return next(done[step] for step in _MODEL if step in done)


def _spec(trained: StageResult) -> str:
    return f"local:{trained.folder.resolve() / MODEL_NAMES[trained.manifest.stage]}"


def _show(store: Path, place: Path) -> None:
    """Makes the store's own folder show a round; one link decides for all."""
    link(store / LATEST, place)
    for name in _OF_LATEST:
        link(store / name, store / LATEST / name)
