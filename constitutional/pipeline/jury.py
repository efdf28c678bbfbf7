"""The judges of a recipe: who they are, and how each is asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from constitutional.backends.identity import identify
from constitutional.backends.specs import default_sampling
from constitutional.errors import BackendError, ConfigError
from constitutional.feedback.judging.ways import DRAWING, SAMPLES, Way
from constitutional.records import Mode
from constitutional.settings import JudgeSettings, JudgingSettings, Recipe

MODEL = "model:"
"""Begins the spec of a preference model."""

VOTE_TOKENS = 8
"""Tokens of a drawn verdict where a recipe does not say: it is a letter, and only its first line is read."""


@dataclass(frozen=True)
class Juror:
    """One judge."""

    name: str
    """`judge` for the recipe's own, else the name in `judging.judges`."""
    spec: str
    way: Way

    @property
    def place(self) -> str:
        """Where its settings stand in a recipe, for messages."""
        return "judging" if self.name == "judge" else f"judging.judges '{self.name}'"

    def identity(self, dtype: str) -> str:
        """What its judgments call it; equal to the opened judge's `model`.

        Raises:
            ConfigError: a folder that holds no preference model's weights.
            BackendError: as `identify`.
        """
        return scorer_identity(self.spec) if self.spec.startswith(MODEL) else identify(self.spec, dtype)


def scorer_identity(spec: str) -> str:
    """The identity of the preference model a spec names, without opening it.

    Raises:
        BackendError: the packages to read it are not there.
        ConfigError: it is no folder with safetensors weights, and no ensemble of such.
    """
    try:
        from constitutional.training.scorer import folder_digest
    except ImportError as error:
        raise BackendError(f"{spec}: a preference model needs torch and transformers: {error}") from error
    return f"pm-{folder_digest(spec.removeprefix(MODEL))}"


def jury(recipe: Recipe, own: str, locate: Callable[[str], str], requests: tuple[str, ...]) -> list[Juror]:
    """Every judge of a recipe; the first is the one whose word makes labels, and who passes the gate.

    Args:
        recipe: its settings.
        own: the spec of the recipe's own judge.
        locate: turns a spec of the recipe into one whose paths lead somewhere.
        requests: what few-shots may be asked under where the recipe draws it.

    Raises:
        ConfigError: a mode that its judge can not follow.
    """
    settings = recipe.judging
    shown = requests if settings.shot_principles == "sampled" else ()
    found = [_juror("judge", own, settings, recipe.seed, shown)]
    for given in settings.judges:
        found.append(
            _juror(given.name, own if given.model == "self" else locate(given.model), given, recipe.seed, shown)
        )
    return sorted(found, key=lambda juror: juror.name != settings.labels)


def _juror(name: str, spec: str, settings: JudgingSettings | JudgeSettings, seed: int, shown: tuple[str, ...]) -> Juror:
    scores = spec.startswith(MODEL)
    mode: Mode = settings.mode or ("model" if scores else "logprob")
    way = Way(mode, shot_requests=() if mode in ("score", "model") else shown, seed=seed)
    juror = Juror(name, spec, way)
    if scores != (mode == "model"):
        fault = (
            "a preference model is asked in mode 'model' only" if scores else "mode 'model' needs a judge model:FOLDER"
        )
        raise ConfigError(f"{juror.place}: mode '{mode}' with {spec}: {fault}")
    if mode not in DRAWING:
        return juror
    given = settings.sampling.model_dump(exclude_none=True) if settings.sampling else {}
    kept = {"max_tokens": VOTE_TOKENS} if mode == "vote" else {}
    sampling = default_sampling(spec).model_copy(update={**kept, **given, "seed": seed})
    samples = settings.samples or SAMPLES[mode]
    if samples > 1 and sampling.temperature == 0:
        raise ConfigError(
            f"{juror.place}: {samples} samples at temperature 0 are one sample {samples} times: "
            "set samples to 1 or sampling.temperature above 0"
        )
    return Juror(name, spec, Way(mode, samples, sampling, way.shot_requests, seed))
