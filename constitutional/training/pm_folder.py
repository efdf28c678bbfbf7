"""What a preference model's folder holds beside weights: the members of an ensemble, the principles it is asked under.

pm/  config.json model.safetensors …            one model
pm/  ensemble.json member-0/ member-1/ …        an ensemble; every member is a model folder of its own
pm/  principles.json                            of either, where the model is conditioned on a principle's text
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import Field, ValidationError

from constitutional.errors import ConfigError
from constitutional.records import Dialogue, Record, assistant, short_digest, user

Rule = Literal["mean", "min", "lower"]
Read = TypeVar("Read", bound=Record)

ENSEMBLE = "ensemble.json"
PRINCIPLES = "principles.json"
_UNDER, _MEMBERS = "-under-", "-members-"

OVERALL = "Which answer is better?"
"""Stands for a principle's text where a label was given under none: by people, or by where the answers come from."""


class Ensemble(Record):
    """How the scores of several preference models become one.

    A preference model's scores are fixed only up to a constant. `offsets`, each member's mean score on the rows it
    was trained on, are taken off, so that members can be compared with each other.
    """

    members: Annotated[tuple[str, ...], Field(min_length=1)]
    offsets: tuple[float, ...]
    rule: Rule = "mean"
    spread: Annotated[float, Field(ge=0)] = 1.0
    """Standard deviations that the rule `lower` takes off the mean."""


class Condition(Record):
    """A principle's text as a conditioned model reads it, and its weight in the reward.

    In a model's folder the weight is what it was at training; a run asks by what its constitution says now.
    """

    principle: str
    text: str
    weight: Annotated[float, Field(gt=0)] = 1.0


class Conditions(Record):
    """The principles a conditioned model answers under unless it is asked under others."""

    principles: Annotated[tuple[Condition, ...], Field(min_length=1)]


def member_folders(folder: str | Path) -> list[Path]:
    """The model folders of a preference model: its members' in order, or the folder itself.

    Raises:
        ConfigError: an ensemble.json that is damaged or names a folder outside.
    """
    ensemble = read_ensemble(folder)
    return [Path(folder) / name for name in ensemble.members] if ensemble else [Path(folder)]


def read_ensemble(folder: str | Path) -> Ensemble | None:
    """The ensemble in a folder; None where it holds a single model.

    Raises:
        ConfigError: an ensemble.json that is damaged or names a folder outside.
    """
    path = Path(folder) / ENSEMBLE
    found = _read(path, Ensemble)
    if found is None:
        return None
    for number, name in enumerate(found.members):
        if name != f"member-{number}" or not (path.parent / name).is_dir():
            raise ConfigError(f"{path}: no member folder 'member-{number}'")
    if len(found.offsets) != len(found.members):
        raise ConfigError(f"{path}: {len(found.offsets)} offsets for {len(found.members)} members")
    return found


def read_conditions(folder: str | Path) -> tuple[Condition, ...]:
    """The principles in a folder; none where the model is not conditioned.

    Raises:
        ConfigError: a principles.json that is damaged.
    """
    found = _read(Path(folder) / PRINCIPLES, Conditions)
    return found.principles if found else ()


def under(dialogue: Dialogue, text: str | None) -> Dialogue:
    """A dialogue as a conditioned model reads it: the principle's text in a turn behind the answer, as in SALMON.

    Behind it, because what stands before is then the same under every principle and is computed once.
    """
    return dialogue if text is None else (*dialogue, user(text))


def answered(messages: Dialogue, answer: str, text: str | None = None) -> Dialogue:
    """A conversation with an answer to it and, for a conditioned model, the text of a principle."""
    return under((*messages, assistant(answer)), text)


def asked_otherwise(identity: str, principles: Sequence[Condition]) -> str:
    """The identity of a conditioned model that scores under other principles or weights than it was saved with."""
    return f"{identity}{_UNDER}{short_digest([c.model_dump(mode='json') for c in principles])}"


def weights_identity(identity: str) -> str:
    """The identity of the whole model itself, whatever principles it scored under, and with which of its members."""
    return identity.partition(_UNDER)[0].partition(_MEMBERS)[0]


def some_members(identity: str, members: Sequence[int]) -> str:
    """The identity of an ensemble of which only some members score."""
    return f"{identity}{_MEMBERS}{'.'.join(map(str, members))}"


def reduced(ensemble: Ensemble, members: Sequence[int]) -> Ensemble:
    """An ensemble of some of the members of another, by their numbers."""
    return ensemble.model_copy(
        update={
            "members": tuple(ensemble.members[i] for i in members),
            "offsets": tuple(ensemble.offsets[i] for i in members),
        }
    )


def combine(scores: Sequence[Sequence[float]], ensemble: Ensemble) -> list[float]:
    """One score an item from those of each member.

    `mean`; `min`, the most doubtful member; `lower`, mean - spread * standard deviation (of the members themselves,
    not of a population they were drawn from: divided by their number). Coste et al. 2023, section 3.

    Args:
        scores: of each member, in order, the score of every item.
        ensemble: the rule and the members' offsets.
    """
    centred = [[s - offset for s in own] for own, offset in zip(scores, ensemble.offsets, strict=True)]
    found = []
    for column in zip(*centred, strict=True):
        mean = sum(column) / len(column)
        if ensemble.rule == "min":
            found.append(min(column))
        elif ensemble.rule == "lower":
            deviation = (sum((s - mean) ** 2 for s in column) / len(column)) ** 0.5
            found.append(mean - ensemble.spread * deviation)
        else:
            found.append(mean)
    return found


def _read(path: Path, kind: type[Read]) -> Read | None:
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise ConfigError(f"{path}: cannot be read as written by training ({type(error).__name__})") from error
