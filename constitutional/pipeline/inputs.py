"""A recipe with everything it names loaded and checked: constitution, templates, prompts, checks, pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from constitutional.backends.catalog import CATALOG
from constitutional.backends.identity import identify
from constitutional.backends.specs import default_sampling
from constitutional.checks import Check
from constitutional.config import resolve_path
from constitutional.constitution import load_composed
from constitutional.constitution.code import open_checks
from constitutional.constitution.packs import open_pack
from constitutional.errors import ConfigError, DataError, naming_key, nearest
from constitutional.feedback.judging.ways import Way
from constitutional.interop.pairs import LabelledPairs, read_pairs
from constitutional.pipeline.jury import Juror, jury
from constitutional.pipeline.weights import through_openvino
from constitutional.principles import Constitution, Phase, Principle
from constitutional.prompts import load_prompts
from constitutional.records import Prompt, PromptKind, Sampling, Split
from constitutional.settings import EndpointSettings, PromptSettings, PromptSource, Recipe, SamplingSettings
from constitutional.templates import TemplatePack

PHASE_OF: dict[str, Phase] = {
    "revise": "revise",
    "gate": "judge",
    "judge": "judge",
    "label": "judge",
    "evaluate": "evaluate",
}
"""The phase whose principles a step asks under."""


@dataclass(frozen=True)
class Inputs:
    """A recipe with everything it names loaded and checked, before any folder is made."""

    recipe: Recipe
    recipe_file: Path
    constitution: Constitution
    pack: TemplatePack
    prompts: tuple[Prompt, ...]
    checks: Mapping[str, Check]
    """The opened checks of the principles that are code, by `id@version`."""
    pairs: LabelledPairs | None
    """The pairs of `sample.pairs`."""

    @property
    def every_prompt(self) -> tuple[Prompt, ...]:
        """The prompts to answer, and those of the pairs, which nothing answers."""
        return self.prompts + (self.pairs.prompts if self.pairs else ())

    def select(self, kind: PromptKind, split: Split) -> list[Prompt]:
        """The prompts of one kind and split, in file order."""
        return [p for p in self.prompts if p.kind == kind and p.split == split]

    def prompt(self, prompt_id: str) -> Prompt:
        """A prompt by its id."""
        return next(p for p in self.every_prompt if p.id == prompt_id)

    def spec(self, role: str) -> str:
        """The model spec behind `policy`, `feedback` or `judge` (the labels'), `self` and defaults resolved."""
        recipe = self.recipe
        if role == "policy":
            return self.located(recipe.policy)
        if role == "judge":
            return self.juror.spec
        return self.located(recipe.policy if recipe.feedback == "self" else recipe.feedback)

    def writer(self, role: str) -> str:
        """The spec of what writes the text of `policy` or `feedback`."""
        spec = self.spec(role)
        return self.writes(spec) if spec == self.spec("policy") else spec

    def writes(self, spec: str) -> str:
        """The spec of what writes the text of the policy's model, or of one that was trained from it."""
        return spec if self.recipe.policy_engine == "torch" else through_openvino(spec)

    @property
    def engine_key(self) -> dict[str, object]:
        """What the key of a step in which the policy writes holds of the engine; nothing where it is torch."""
        if self.recipe.policy_engine == "torch":
            return {}
        from constitutional.backends.openvino import folder_engine

        return {"policy_engine": folder_engine(self.recipe.dtype)}

    def located(self, spec: str) -> str:
        """A model spec of the recipe, its path found."""
        kind, _, rest = spec.partition(":")
        placed = kind in ("scripted", "local", "vllm", "model") or (kind == "openvino" and rest not in CATALOG)
        return f"{kind}:{resolve_path(self.recipe_file, rest)}" if placed else spec

    @property
    def jury(self) -> list[Juror]:
        """Every judge, the labels' judge first."""
        recipe = self.recipe
        given = recipe.policy if recipe.judge == "self" else recipe.judge
        own = self.spec("feedback") if given is None else self.located(given)
        requests = [p.comparison_request for p in self.constitution.principles if "judge" in p.phases]
        return jury(recipe, own, self.located, tuple(request for request in requests if request))

    @property
    def juror(self) -> Juror:
        """The judge whose word makes labels."""
        return self.jury[0]

    def identity(self, role: str) -> str:
        """The identity of the model behind a role, without opening it."""
        dtype = self.recipe.dtype
        return self.juror.identity(dtype) if role == "judge" else identify(self.spec(role), dtype)

    def sampling(self, role: str, **overrides: float | int | None) -> Sampling:
        """How a role's text is drawn: the model's default, under the recipe's settings, under `overrides`."""
        settings: SamplingSettings = getattr(self.recipe.sampling, role)
        given = {**settings.model_dump(exclude_none=True), **{k: v for k, v in overrides.items() if v is not None}}
        return default_sampling(self.spec(role)).model_copy(update=given)

    def taking_part(self, phase: Phase, way: Way | None = None) -> list[Principle]:
        """The principles that name a phase and have what it asks: requests to revise under, or what judges an answer.

        Args:
            phase: of the recipe.
            way: how judges are asked; as the labels' judge is when None.

        Raises:
            ConfigError: a principle named in `revise.principles` does not take part, or none does.
        """
        needed, code_will_do = (way or self.juror.way).request, phase != "revise"
        if phase == "revise":
            needed = "revision_request and a critique_request" if self.recipe.revise.critique else "revision_request"
        found = [
            p
            for p in self.constitution.principles
            if phase in p.phases
            and ((code_will_do and p.check) or all(getattr(p, name) for name in needed.split(" and a ")))
        ]
        named = self.recipe.revise.principles if phase == "revise" else None
        if named is not None:
            known = {p.id: p for p in found}
            for name in named:
                if name not in known:
                    raise ConfigError(f"revise.principles: no principle '{name}' to revise under{nearest(name, known)}")
            found = [known[name] for name in named]
        if not found:
            raise ConfigError(
                f"constitution {self.constitution.ref}: no principle takes part in '{phase}': none whose `phases` name "
                f"it has a {needed}{' or a check' if code_will_do else ''}"
            )
        return found

    @property
    def asked_of_pairs(self) -> list[Principle]:
        """The principles the gate puts to the judge on human-labelled pairs: those that are for every conversation."""
        judging = self.taking_part("judge")
        return [p for p in judging if p.ref not in self.checks and p.applies_when is None]

    def code_key(self, principles: Sequence[Principle]) -> dict[str, object]:
        """What a step's key holds of the checks it uses; nothing where it uses none."""
        used = [[p.ref, self.checks[p.ref].identity] for p in principles if p.ref in self.checks]
        return {"checks": used} if used else {}

    def case_key(self, principles: Sequence[Principle]) -> dict[str, object]:
        """What a step's key holds of the question whether a principle applies; nothing where none is asked."""
        cases = [[p.ref, p.applies_when] for p in principles if p.applies_when is not None]
        return {"applies_when": cases, "applies_template": self.pack.digest("applies")} if cases else {}

    @property
    def endpoint(self) -> EndpointSettings:
        """How servers are called; a file of prices is looked up beside the recipe."""
        settings = self.recipe.endpoint
        if settings.prices is None:
            return settings
        return settings.model_copy(update={"prices": str(resolve_path(self.recipe_file, settings.prices))})

    def runs(self, step: str) -> bool:
        """Whether the recipe has a step."""
        return self.recipe.stages is None or step in self.recipe.stages


def _split_and_cut(prompts: list[Prompt], source: PromptSource) -> list[Prompt]:
    """The prompts a source asks for. A file that holds nothing out lends its rows after `limit` to be held out."""
    train = [p for p in prompts if p.split == "train"]
    heldout = [p for p in prompts if p.split == "heldout"]
    if not heldout and source.limit and source.heldout_limit:
        rest = train[source.limit : source.limit + source.heldout_limit]
        heldout = [Prompt(**{**dict(p), "id": "", "split": "heldout"}) for p in rest]
    return train[: source.limit] + heldout[: source.heldout_limit]


def _load_prompts(settings: PromptSettings, recipe_file: Path) -> list[Prompt]:
    sources: list[tuple[PromptKind, PromptSource | None]] = [
        ("red_team", settings.red_team),
        ("helpful", settings.helpful),
        ("benign", settings.benign),
    ]
    prompts: list[Prompt] = []
    for kind, source in sources:
        if source is not None:
            path = resolve_path(recipe_file, source.path)
            with naming_absent(f"prompts.{kind}.path", path):
                prompts += _split_and_cut(load_prompts(str(path), kind), source)
    if not any(p.kind == "red_team" and p.split == "train" for p in prompts):
        raise DataError(f"{settings.red_team.path}: no red-team prompt with split 'train'")
    return prompts


def naming_absent(key: str, path: Path) -> AbstractContextManager[None]:
    """Of a file that is not there the setting is what is wrong; of one that is, errors begin with its own lines."""
    return nullcontext() if path.is_file() else naming_key(key)


def _load_pairs(recipe: Recipe, recipe_file: Path) -> LabelledPairs | None:
    source = recipe.sample.pairs
    if source is None:
        return None
    path = resolve_path(recipe_file, source.path)
    with naming_absent("sample.pairs.path", path):
        return read_pairs(str(path), kind=source.kind, seed=recipe.seed, limit=source.limit)


def load_inputs(recipe: Recipe, recipe_file: Path) -> Inputs:
    """Loads what a recipe names.

    Raises:
        ConstitutionalError: any of it is missing or wrong; nothing has been written then.
    """
    with naming_key("constitution"):
        composed = load_composed(str(resolve_path(recipe_file, recipe.constitution)))
    constitution, checks = composed.constitution, open_checks(composed)
    with nullcontext() if recipe.templates is None else naming_key("templates"):
        pack = open_pack(composed, recipe.templates and str(resolve_path(recipe_file, recipe.templates)))
    prompts = _load_prompts(recipe.prompts, recipe_file) if recipe.prompts is not None else []
    inputs = Inputs(recipe, recipe_file, constitution, pack, tuple(prompts), checks, _load_pairs(recipe, recipe_file))
    for step, phase in PHASE_OF.items():
        if inputs.runs(step):
            inputs.taking_part(phase)
    if inputs.runs("revise") and not recipe.revise.replacement:
        drawn, wanted = len(inputs.taking_part("revise")), recipe.revise.rounds
        if wanted > drawn:
            raise ConfigError(
                f"revise.rounds: {wanted} rounds without replacement need as many principles (not {drawn})"
            )
    return inputs
