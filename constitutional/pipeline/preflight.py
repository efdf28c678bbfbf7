"""What can be known to go wrong before anything is written: missing steps, models that cannot do their part."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from constitutional.backends.endpoint.wire import require_extra
from constitutional.backends.gguf_export import check_exportable
from constitutional.backends.identity import identify
from constitutional.backends.specs import split_spec
from constitutional.backends.tokens import require_harmless_text
from constitutional.config import resolve_path
from constitutional.constitution.diff import diff, summary
from constitutional.errors import ConfigError, DataError, LedgerError, RunError, naming_key, nearest
from constitutional.feedback.contrast import contrasting
from constitutional.feedback.judging.ways import TEMPLATE_OF
from constitutional.ledger import Ledger
from constitutional.pipeline.inputs import Inputs, naming_absent
from constitutional.pipeline.weights import weights_of
from constitutional.principles import Constitution, Phase
from constitutional.prompts import load_pairs
from constitutional.records import user
from constitutional.runs import StageResult
from constitutional.settings import DpoSettings, Recipe
from constitutional.training.launches import ADAPTERS, PPO, PROBE, WATCH, shares_weights_out

NEEDS: dict[str, tuple[str, ...]] = {
    "sft": ("revise", "helpful"),
    "judge": ("sample",),
    "label": ("sample", "gate", "judge"),
    "pm": ("label",),
    "evaluate": ("answers",),
}
"""Steps whose results a step reads; what `rl` reads depends on its settings (`rewarding.check_rewards`)."""

TRAINING = ("sft", "pm", "rl")
JUDGING = ("gate", "judge", "evaluate")
TOKENISED_HERE = ("local", "embedded", "openvino", "vllm")


def check_steps(steps: Sequence[str], *, human_preferences: bool = False, contrast: bool | None = None) -> None:
    """Every step finds what it reads.

    Args:
        steps: of the recipe.
        human_preferences: the preference model can do without labels of the run.
        contrast: of a recipe that labels by provenance, whether contrast pairs are labelled; None where a judge labels.

    Raises:
        ConfigError: naming the step and what it needs.
    """
    needs = NEEDS if contrast is None else {**NEEDS, "label": ("sample",) if contrast else ()}
    for step in steps:
        for needed in needs.get(step, ()):
            if needed not in steps and not (step == "pm" and human_preferences):
                people = ", or preferences of people (pm.human)" if step == "pm" else ""
                raise ConfigError(f"stages: '{step}' needs '{needed}', which is left out{people}")


def check_launch(recipe: Recipe, steps: Sequence[str]) -> None:
    """Every training can be done on weights that lie in parts over processes, where the launcher will lay them so.

    Raises:
        ConfigError: adapters, PPO or a watch; what a training would refuse when it begins, hours into the run.
    """
    if not shares_weights_out():
        return
    for step, settings in (("sft", recipe.sft), ("pm", recipe.pm), ("rl", recipe.rl)):
        if step in steps and settings.lora is not None:
            raise ConfigError(f"{step}.lora: {ADAPTERS}")
    if "pm" in steps and recipe.pm.head == "probe" and shares_weights_out("DEEPSPEED"):
        raise ConfigError(PROBE)
    if "rl" in steps and recipe.rl.algorithm == "ppo":
        raise ConfigError(PPO)
    if "rl" in steps and recipe.rl.watch is not None:
        raise ConfigError(WATCH)


def check_trainings(recipe: Recipe, steps: Sequence[str]) -> None:
    """What the recipe hands to TRL is known there, and adapters can be had.

    Raises:
        ConfigError: a setting that TRL does not know or the recipe may not give; adapters without the package.
    """
    kinds = {"sft": "sft", "pm": "pm", "rl": recipe.rl.algorithm}
    for step, settings in (("sft", recipe.sft), ("pm", recipe.pm), ("rl", recipe.rl)):
        if step not in steps:
            continue
        if settings.lora is not None and find_spec("peft") is None:
            raise ConfigError(f"{step}.lora: needs peft; install it with: pip install 'constitutional[lora]'")
        if settings.trl:
            from constitutional.training.trl_settings import HARD_ONLY, check_passed  # costs seconds

            soft = kinds[step] == "dpo" and (recipe.rl.dpo or DpoSettings()).labels == "soft"
            check_passed(kinds[step], settings.trl, key=f"{step}.trl", fixed=HARD_ONLY if soft else ())


def check_sources(inputs: Inputs, steps: Sequence[str]) -> None:
    """Comparisons that a setting adds find what they are made of, and a principle to ask them under.

    Raises:
        ConfigError: `sample.revisions` without revisions, `pm.contrast` without helpful answers, `pm.conditioned`
            without judgments, or `gate.human` without a principle for the judge that applies to every pair.
    """
    recipe = inputs.recipe
    judged = recipe.label.source == "judge" and recipe.gate.fallback == "stop"
    labels_revisions = recipe.pm.contrast or not (recipe.sample.contrast or judged)
    if labels_revisions and "label" in steps and "revise" not in steps:
        raise ConfigError("stages: 'label' needs 'revise', which is left out")
    if inputs.recipe.sample.contrast and "sample" in steps:
        if inputs.pairs is not None:
            raise ConfigError("sample.pairs takes the place of every other comparison: leave out sample.contrast")
        if not contrasting(inputs.taking_part("judge")):
            raise ConfigError("sample.contrast: no principle has a comparison_request and a negated_comparison_request")
        if "contrast" not in inputs.pack.templates:
            raise ConfigError(f"sample.contrast: template pack {inputs.pack.ref} has no contrast.j2")
    if inputs.recipe.sample.revisions and inputs.pairs is not None:
        raise ConfigError("sample.pairs takes the place of every other comparison: leave out sample.revisions")
    if inputs.recipe.sample.revisions and "sample" in steps and "revise" not in steps:
        raise ConfigError("stages: sample.revisions needs 'revise', which is left out")
    if inputs.recipe.pm.contrast and "label" in steps and "helpful" not in steps:
        raise ConfigError("stages: pm.contrast needs 'helpful', which is left out")
    if inputs.recipe.pm.conditioned and "pm" in steps and "judge" not in steps:
        raise ConfigError("stages: pm.conditioned needs 'judge' and 'label', whose principles it learns from")
    if inputs.recipe.gate.human is not None and "gate" in steps and not inputs.asked_of_pairs:
        raise ConfigError("gate.human: there is no principle to put to the judge that applies to every pair")


def check_label(inputs: Inputs, steps: Sequence[str]) -> None:
    """The principles that `label.veto` names take part in judging.

    Raises:
        ConfigError: one does not.
    """
    veto = inputs.recipe.label.veto
    if inputs.recipe.label.rule != "veto" or "label" not in steps:
        return
    judging = inputs.taking_part("judge")
    if isinstance(veto, int):
        tiers = sorted({p.tier for p in judging})
        if veto not in tiers:
            raise ConfigError(f"label.veto: no principle that judges is of tier {veto} (there are: {tiers})")
        return
    for name in veto:
        if name not in {p.id for p in judging}:
            raise ConfigError(
                f"label.veto: no principle '{name}' to judge under{nearest(name, (p.id for p in judging))}"
            )


def check_human_preferences(inputs: Inputs, steps: Sequence[str]) -> None:
    """Files of human preferences, the gate's too, are there and read as such; the hub's are looked at when used.

    Raises:
        ConfigError: two of them have one name, by which figures are told.
        DataError: a file that is missing, empty or of another form.
    """
    names = []
    for source in inputs.recipe.pm.human if "pm" in steps or "rl" in steps else ():
        path = resolve_path(inputs.recipe_file, source.path)
        _check_pairs("pm.human", path)
        if path.name in names:
            raise ConfigError(f"pm.human: two data sets are called '{path.name}': rename one")
        names.append(path.name)
    if "gate" in steps and inputs.recipe.gate.human is not None:
        _check_pairs("gate.human", resolve_path(inputs.recipe_file, inputs.recipe.gate.human))


def _check_pairs(key: str, path: Path) -> None:
    if path.suffix in (".jsonl", ".json", ".gz"):
        with naming_absent(key, path):
            load_pairs(str(path), 1)


def check_models(inputs: Inputs, steps: Sequence[str]) -> None:
    """Every model is there and can do what the steps ask of it.

    Raises:
        ConfigError: a policy that cannot be trained, a judge that cannot answer in its mode, a template pack that
            training cannot follow.
        BackendError: a model that is missing.
    """
    specs = [inputs.spec("policy"), inputs.spec("feedback"), *(juror.spec for juror in inputs.jury)]
    if any(spec.partition(":")[0] in TOKENISED_HERE for spec in specs):
        require_harmless_text()
    for role in ("policy", "feedback"):
        with naming_key(role):
            identify(inputs.spec(role), inputs.recipe.dtype)
    if any(spec.startswith("openai:") for spec in specs):
        require_extra()
    if inputs.recipe.policy_engine == "openvino":
        identify(inputs.writer("policy"), inputs.recipe.dtype)
        check_exportable(weights_of(inputs.spec("policy")))
    check_cases(inputs, steps)
    trained = [step for step in steps if step in TRAINING]
    if trained and split_spec(inputs.spec("policy"))[0] not in ("local", "embedded"):
        raise ConfigError(f"policy: {inputs.recipe.policy} cannot be trained ({trained[0]}): use local: or embedded:")
    _check_judges(inputs, steps)
    plain = (user("How are you?"),)
    if trained and inputs.pack.render("respond", conversation=plain).dialogue != plain:
        raise ConfigError(
            f"templates: pack {inputs.pack.ref} does not ask in chat form, but {trained[0]} trains on chat messages: "
            "leave the training steps out (stages:) or use a chat pack"
        )


def _check_judges(inputs: Inputs, steps: Sequence[str]) -> None:
    """Every judge is there and can answer in its mode."""
    judging = any(step in JUDGING for step in steps)
    for juror in inputs.jury:
        with naming_key("judge" if juror.name == "judge" else juror.place):
            juror.identity(inputs.recipe.dtype)
        mode, template = juror.way.mode, TEMPLATE_OF.get(juror.way.mode)
        kind = juror.spec.partition(":")[0]
        if judging and template is not None and template not in inputs.pack.templates:
            raise ConfigError(
                f"{juror.place}: mode '{mode}' asks with the template '{template}', which pack {inputs.pack.ref} lacks"
            )
        if judging and kind == "openvino" and mode != "vote":
            raise ConfigError(
                f"judge: {juror.spec} gives no log-probabilities of options: "
                "name the same model as `judge: embedded:...`, or set judging.mode to vote"
            )


def check_cases(inputs: Inputs, steps: Sequence[str]) -> None:
    """A judge that is asked whether principles apply can say so. Opens no model.

    Raises:
        ConfigError: a preference model that decides which principles revise, an engine without log-probabilities.
    """
    phases: set[Phase] = {"evaluate" if step == "evaluate" else "judge" for step in steps if step in JUDGING}
    conditional = "revise" in steps and any(p.applies_when for p in inputs.taking_part("revise"))
    for number, juror in enumerate(inputs.jury):
        kind = juror.spec.partition(":")[0]
        asked = any(p.applies_when for phase in phases for p in inputs.taking_part(phase, juror.way))
        first = number == 0 and conditional
        if (first and kind == "model") or ((first or asked) and kind == "openvino"):
            fault = "is a preference model" if kind == "model" else "gives no log-probabilities"
            raise ConfigError(
                f"{juror.place}: {juror.spec} {fault}: it can not be asked whether principles apply (applies_when)"
            )


def check_prompts(inputs: Inputs, steps: Sequence[str]) -> None:
    """There is something to evaluate on when an evaluation is asked for.

    Raises:
        DataError: no held-out red-team prompt.
    """
    if "answers" in steps and not inputs.select("red_team", "heldout"):
        source = inputs.recipe.prompts.red_team.path if inputs.recipe.prompts else "prompts"
        raise DataError(
            f"{source}: no held-out red-team prompts: give rows `split: heldout`, or set "
            "prompts.red_team.limit and heldout_limit to hold out the rows after the limit"
        )


def check_place(run_folder: Path) -> None:
    """A run goes into a folder of a run, or into a new or empty one: not among other files.

    Raises:
        RunError: it holds something else, or cannot be looked at.
    """
    try:
        names = {path.name for path in run_folder.iterdir()} if run_folder.is_dir() else set()
    except OSError as error:
        raise RunError(f"cannot read {run_folder}: {error.strerror or error}") from error
    if not names & {"run.yaml", "stages"} and any(not name.startswith(".") for name in names):
        raise RunError(f"{run_folder}: holds other files and no run: give another --out")


def check_constitution(run_folder: Path, constitution: Constitution, accepted: str | None) -> None:
    """A run folder goes on under the constitution it was made under, or under another one that is asked for by name.

    Raises:
        RunError: another one, and `accepted` is neither its digest nor its `id@version`, which must be another one,
            too; says what differs.
    """
    path = run_folder / "constitution.json"
    if not path.exists():
        return
    try:
        before = Constitution.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: not a constitution: move the run folder aside") from error
    name = constitution.digest if before.ref == constitution.ref else constitution.ref  # what tells the two apart
    if before.digest == constitution.digest or accepted in (name, constitution.digest):
        return
    raise RunError(
        f"{run_folder} was made under {before.ref} ({before.digest}), the recipe names {constitution.ref} "
        f"({constitution.digest}; {summary(diff(before, constitution))}): give another --out, or say "
        f"--accept-constitution {name} to go on here"
    )


def check_ledger(ledger: Ledger, results: Sequence[StageResult]) -> None:
    """The ledger is whole, and is the one that finished stages wrote to.

    Raises:
        LedgerError: the first thing wrong.
    """
    heads = [r.manifest.ledger_head for r in results if r.manifest.ledger_head]
    problems = ledger.verify(heads)
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise LedgerError(f"{problems[0]}{more}; move the run folder aside or restore the ledger")
