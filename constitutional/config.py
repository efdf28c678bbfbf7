"""Recipes: a YAML file, the files it extends, and `--set` on top, checked as one."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from constitutional.errors import ConfigError
from constitutional.extends import beside, extended
from constitutional.principles import Constitution
from constitutional.settings import Recipe
from constitutional.validation import Loc, Marks, locate, validate
from constitutional.yamlfile import load_yaml, parse_scalar, parse_yaml

__all__ = ["Recipe", "load_recipe", "make_recipe", "resolve_path"]


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Loads a recipe.

    Args:
        path: the YAML file. `extends: base.yaml` (or a list, later ones win) names files relative to it that it is laid
            over; mappings are merged, anything else is replaced.
        overrides: `section.key=value` texts; the value reads as in YAML (`[a, b]`, `{a: 1}` and quotes included).

    Raises:
        ConfigError: one line `file:line:col: key: message` (or `--set …: key: message`) for each thing wrong.
    """
    data, marks = _laid(path, overrides)
    return validate(data, marks, Recipe, ConfigError, known=("extends",))


def recipe_marks(path: Path, overrides: Sequence[str] = ()) -> Marks:
    """Where each setting of a recipe stands. Arguments and errors as of `load_recipe`."""
    return _laid(path, overrides)[1]


def _laid(path: Path, overrides: Sequence[str]) -> tuple[dict[str, Any], Marks]:
    data, marks = _load(path, ())
    if holds_constitution(data):
        raise ConfigError(f"{path}: a constitution, where a recipe is wanted")
    for override in overrides:
        _override(data, marks, override)
    return data, marks


def holds_constitution(data: object) -> bool:
    """Whether what a file holds has more of a constitution than of a recipe, though it be neither."""
    if not isinstance(data, dict):
        return False
    keys = data.keys() - (Recipe.model_fields.keys() & Constitution.model_fields.keys())
    return len(keys & Constitution.model_fields.keys()) > len(keys & Recipe.model_fields.keys())


def recipe_schema() -> dict[str, Any]:
    """The JSON Schema of a recipe file, for editors. What only loading can say (files, names) is not in it."""
    schema = Recipe.model_json_schema()
    schema["properties"]["extends"] = {
        "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
        "description": "Files, relative to this one, that it is laid over; they may give what is required.",
    }
    schema["anyOf"] = [{"required": ["extends"]}, {"required": schema.pop("required")}]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def placed(message: str, marks: Marks) -> str:
    """A message that begins with a setting's name, behind the place that sets it; any other as it is.

    Args:
        message: of an error that checks of a whole recipe raise, which know no places. The name may be followed by that
            of an item: `judging.judges 'strict': ...`.
        marks: of the recipe.
    """
    named = re.match(r"[a-z_]+(\.[a-z_]+)*(?=(?: '[^']*')?: )", message)
    if named is None:
        return message
    keys = tuple(named.group().split("."))
    place, found = locate(marks, keys)
    return f"{place}: {message}" if found[:1] == keys[:1] else message


def make_recipe(settings: Mapping[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """A recipe that no file holds: a command's own settings, under its `--set` texts. Raises as `load_recipe`."""
    data: dict[str, Any] = copy.deepcopy(dict(settings))
    marks: Marks = {(): "settings"}
    for override in overrides:
        _override(data, marks, override)
    return validate(data, marks, Recipe, ConfigError)


def resolve_path(recipe_file: Path, text: str) -> Path:
    """Where a path in a recipe leads: beside the recipe file, else from the working directory, else as written.

    The last case leaves names (`minimal`, a hub data set) to those who know what to make of them.
    """
    beside = recipe_file.parent / text
    return beside.resolve() if beside.exists() else Path(text).resolve() if Path(text).exists() else Path(text)


def _load(path: Path, chain: tuple[Path, ...]) -> tuple[dict[str, Any], Marks]:
    """A file laid over the files it extends, with the place of every key in the file it came from."""
    own, own_marks = load_yaml(path, ConfigError)
    if not isinstance(own, dict):
        raise ConfigError(f"{own_marks[()]}: expected a mapping of keys at the top")
    here = (*chain, path.resolve())
    data: dict[str, Any] = {}
    marks: Marks = {}
    for base in extended(own.pop("extends", []), own_marks, partial(beside, path), ConfigError):
        if base.path.resolve() in here:
            circle = " -> ".join(item.name for item in (*here, base.path.resolve()))
            raise ConfigError(f"{base.place}: extends: goes in a circle ({circle})")
        base_data, base_marks = _load(base.path, here)
        _merge(data, base_data, marks)
        marks.update(base_marks)
    _merge(data, own, marks)
    return data, marks | own_marks


def _merge(into: dict[str, Any], over: dict[str, Any], marks: Marks, at: Loc = ()) -> None:
    """Lays one mapping over another; what is replaced as a whole has no places any more."""
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value, marks, (*at, key))
        else:
            into[key] = value
            _unmark(marks, (*at, key))


def _unmark(marks: Marks, at: Loc) -> None:
    for loc in [loc for loc in marks if loc[: len(at)] == at]:
        del marks[loc]


def _override(data: dict[str, Any], marks: Marks, override: str) -> None:
    """Sets one dotted key; every key on its way that the files do not have gets the override as its place."""
    place = f"--set {override}"
    dotted, equals, text = override.partition("=")
    keys: Loc = tuple(dotted.strip().split("."))
    if not equals or not all(keys):
        raise ConfigError(f"{place}: expected section.key=value")
    if keys[0] == "extends":
        raise ConfigError(f"{place}: extends: is read before anything is set: name the files in the recipe")
    node = data
    for depth, key in enumerate(keys[:-1], start=1):
        if not isinstance(node.get(str(key)), dict):
            node[str(key)] = {}
            marks[keys[:depth]] = place
        node = node[str(key)]
    node[str(keys[-1])] = _value(text.strip(), place)
    _unmark(marks, keys)
    marks[keys] = place


def _value(text: str, place: str) -> Any:
    if text[:1] in ("[", "{", '"', "'"):
        return parse_yaml(text, place, ConfigError)[0]
    try:
        return parse_scalar(text)
    except ValueError as error:
        raise ConfigError(f"{place}: {error}") from error
