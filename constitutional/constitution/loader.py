"""Reads a constitution and checks what its types alone cannot say."""

from __future__ import annotations

from collections.abc import Iterator

from constitutional.constitution.rules import RULES
from constitutional.errors import ConstitutionError, nearest
from constitutional.principles import Constitution, Principle
from constitutional.resources import find
from constitutional.validation import Loc, Marks, locate, validate
from constitutional.yamlfile import load_yaml

REQUESTS = ("critique_request", "revision_request", "comparison_request")

Problem = tuple[Loc, str]


def load_constitution(name_or_path: str) -> Constitution:
    """Loads a constitution by path or by name (`minimal`, `harmlessness`, or one in ./constitutions).

    Raises:
        ConfigError: no such constitution, with the nearest name.
        ConstitutionError: one line `file:line:col: key: message` for each thing wrong.
    """
    return read_constitution(name_or_path)[0]


def read_constitution(name_or_path: str) -> tuple[Constitution, Marks]:
    """`load_constitution`, with the place of every key and list item of the file.

    Raises:
        ConfigError, ConstitutionError: as `load_constitution`.
    """
    data, marks = load_yaml(find("constitutions", name_or_path), ConstitutionError)
    constitution = validate(data, marks, Constitution, ConstitutionError)
    problems = [*_duplicates(constitution, marks), *_empty_texts(constitution), *_unknown_names(constitution)]
    if problems:
        raise ConstitutionError("\n".join(_line(marks, loc, message) for loc, message in problems))
    return constitution, marks


def _line(marks: Marks, loc: Loc, message: str) -> str:
    place, found = locate(marks, loc)
    return f"{place}: {'.'.join(map(str, found))}: {message}"


def _duplicates(constitution: Constitution, marks: Marks) -> Iterator[Problem]:
    first: dict[str, Loc] = {}
    for index, principle in enumerate(constitution.principles):
        loc: Loc = ("principles", index, "id")
        if principle.id in first:
            yield loc, f"duplicate principle id '{principle.id}' (first at {marks[first[principle.id]]})"
        else:
            first[principle.id] = loc


def _unknown_names(constitution: Constitution) -> Iterator[Problem]:
    """Names of lint rules and of other principles that stand for nothing: a silenced typo silences nobody."""
    ids = {principle.id for principle in constitution.principles}
    for index, principle in enumerate(constitution.principles):
        for item, rule in enumerate(principle.lint_ignore):
            if rule not in RULES:
                yield ("principles", index, "lint_ignore", item), f"no lint rule '{rule}'{nearest(rule, RULES)}"
        for item, name in enumerate(principle.conflicts):
            loc: Loc = ("principles", index, "conflicts", item)
            if name == principle.id:
                yield loc, "a principle cannot contradict itself"
            elif name not in ids:
                yield loc, f"no principle '{name}'{nearest(name, ids - {principle.id})}"


def _empty_texts(constitution: Constitution) -> Iterator[Problem]:
    """What would reach a model, or the gate, as nothing at all."""
    for index, principle in enumerate(constitution.principles):
        loc: Loc = ("principles", index)
        requests = {name: getattr(principle, name) for name in REQUESTS}
        if all(text is None for text in requests.values()):
            yield loc, f"principle '{principle.id}' has no request (give one of {', '.join(REQUESTS)})"
        yield from (
            ((*loc, name), "empty text") for name, text in requests.items() if text is not None and _blank(text)
        )
        yield from _example_problems(principle, loc)


def _example_problems(principle: Principle, loc: Loc) -> Iterator[Problem]:
    for index, example in enumerate(principle.examples):
        here: Loc = (*loc, "examples", index)
        texts = {"prompt": example.prompt, "better": example.better, "worse": example.worse}
        yield from (((*here, name), "empty text") for name, text in texts.items() if _blank(text))
        if example.better.strip() == example.worse.strip() and not _blank(example.better):
            yield (*here, "worse"), "the same text as 'better': nothing to judge"


def _blank(text: str) -> bool:
    return not text.strip()
