"""Pydantic's complaints about a data file, told as one line each: place, key, what is wrong, the nearest legal name."""

from __future__ import annotations

import json
import re
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from constitutional.errors import ConstitutionalError, nearest, one_line, shortened

Loc = tuple[str | int, ...]
Marks = dict[Loc, str]
"""Where each key and list item of some data stands (`file:line:col`), by its path from the root; `()` is the root."""

Model = TypeVar("Model", bound=BaseModel)


_FORMS = {r"^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)$": "expected three numbers, such as 1.0.0"}
"""What a pattern means, where its letters do not say it."""


def validate(
    data: Any,
    marks: Marks,
    model: type[Model],
    error_class: type[ConstitutionalError],
    under: Loc = (),
    known: tuple[str, ...] = (),
) -> Model:
    """Plain values turned into a model, types strict.

    Args:
        data: the values.
        marks: where they stand.
        model: what they must be.
        error_class: of what is raised.
        under: put before the keys that messages name.
        known: further legal keys at the top, which the caller has taken out already.

    Raises:
        error_class: one line `place: key: message` for each thing wrong.
    """
    if not isinstance(data, dict):
        raise error_class(f"{marks[()]}: expected a mapping of keys at the top (got {_shown(data)})")
    try:
        # Through JSON: strict in types, yet lists may fill tuples. Strict Python input would refuse them.
        return model.model_validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        raise error_class("\n".join(_lines(error, marks, model, under, known))) from error


def locate(marks: Marks, loc: Loc) -> tuple[str, Loc]:
    """The place of a path, or of its nearest parent that has one, and the part of the path that exists in the data.

    Pydantic's paths also hold names of union branches: what is not in the data is stepped over.
    """
    found: Loc = ()
    for step in loc:
        if (*found, step) in marks:
            found = (*found, step)
    return marks[found], found


def _lines(
    error: ValidationError, marks: Marks, model: type[BaseModel], under: Loc, known: tuple[str, ...]
) -> list[str]:
    """One line for each thing wrong; what the branches of one union say of one value is joined by "or"."""
    listed = set[str]()
    told: dict[tuple[str, str], list[str]] = {}
    items = error.errors(include_url=False)
    for item in items:
        if item["type"] == "too_short" and any(other["loc"][:-1][: len(item["loc"])] == item["loc"] for other in items):
            continue  # pydantic counts only the items that are good
        place, found = locate(marks, item["loc"])
        if named := _named(item):  # what is wrong with a mapping as a whole may be of one of its keys
            place, _ = locate(marks, (*found, *named))
        keys = (*under, *found)
        start = f"{place}: {'.'.join(map(str, keys))}: " if keys else f"{place}: "
        if item["type"] == "missing":
            name = item["loc"][-1]
            told[start, f"item {name + 1} is missing" if isinstance(name, int) else f"missing key '{name}'"] = [""]
        elif item["type"] == "extra_forbidden":
            *parents, name = found
            hint = nearest(str(name), (*_fields(model, tuple(parents)), *(() if parents else known)))
            told[start, f"unknown key '{name}'{'' if hint in listed else hint}"] = [""]
            if "did you mean" not in hint:
                listed.add(hint)  # a list of legal keys is given once
        else:
            quote = ": quote it" if item["type"] == "string_type" and isinstance(item["input"], int | float) else ""
            end = "" if _of_mapping(item) else f" (got {_shown(item['input'])}{quote})"
            wanted = _FORMS.get(str(item.get("ctx", {}).get("pattern")), item["msg"].removeprefix("Value error, "))
            told.setdefault((start, end), []).append(wanted)
    return [one_line(start + " or ".join(dict.fromkeys(texts)) + end) for (start, end), texts in told.items()]


def _of_mapping(item: ErrorDetails) -> bool:
    return item["type"] == "value_error" and isinstance(item["input"], dict)


def _named(item: ErrorDetails) -> Loc:
    """The key that a complaint about a mapping as a whole begins with (`labels: no judge is called 'b'`), if any."""
    named = re.match(r"Value error, ([a-z_]+(?:\.[a-z_]+)*): ", item["msg"]) if _of_mapping(item) else None
    return tuple(named.group(1).split(".")) if named else ()


def _shown(value: Any) -> str:
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    return shortened(json.dumps(value, ensure_ascii=False), 60)


def _fields(model: type[BaseModel], loc: Loc) -> tuple[str, ...]:
    """Legal keys of the mapping at `loc`; none when the types do not say."""
    annotation: Any = model
    for step in loc:
        annotation = _inside(annotation, step)
    return tuple(name for option in _options(annotation) if _is_model(option) for name in option.model_fields)


def _inside(annotation: Any, step: str | int) -> Any:
    for option in _options(annotation):
        if _is_model(option) and step in option.model_fields:
            return option.model_fields[step].annotation
        arguments = typing.get_args(option)
        origin = typing.get_origin(option)
        if arguments and isinstance(step, int) and origin in (tuple, list):
            return arguments[0]
        if len(arguments) == 2 and isinstance(origin, type) and issubclass(origin, Mapping):
            return arguments[1]
    return None


def _options(annotation: Any) -> tuple[Any, ...]:
    """The branches of a union, `Annotated` taken off."""
    if typing.get_origin(annotation) is typing.Annotated:
        return _options(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return tuple(option for branch in typing.get_args(annotation) for option in _options(branch))
    return (annotation,)


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
