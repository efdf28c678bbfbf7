"""Reads a constitution and checks what its types alone cannot say."""

from __future__ import annotations

from collections.abc import Iterator

from constitutional.constitution.compose import Composed, compose
from constitutional.constitution.rules import RULES
from constitutional.constitution.source import stop_if_any
from constitutional.errors import nearest
from constitutional.principles import Constitution, Example, Principle
from constitutional.resources import find
from constitutional.validation import Loc, Marks, locate

REQUESTS = ("critique_request", "revision_request", "comparison_request")

Problem = tuple[Loc, str]


def load_constitution(name_or_path: str) -> Constitution:
    """Loads a constitution, composed of what it extends, by path or by name (`minimal`, or one in ./constitutions).

    Raises:
        ConfigError: no such constitution, with the nearest name.
        ConstitutionError: one line `file:line:col: key: message` for each thing wrong.
    """
    return load_composed(name_or_path).constitution


def load_composed(name_or_path: str) -> Composed:
    """`load_constitution`, with the place in the files that gave each field.

    Raises:
        ConfigError, ConstitutionError: as `load_constitution`.
    """
    return checked(compose(find("constitutions", name_or_path)))


def checked(composed: Composed) -> Composed:
    """The same, once it holds what types alone cannot say.

    Raises:
        ConstitutionError: one line `file:line:col: key: message` for each thing wrong.
    """
    problems = [*_empty_texts(composed.constitution), *_unknown_names(composed.constitution)]
    stop_if_any(_line(composed.marks, loc, message) for loc, message in problems)
    return composed


def _line(marks: Marks, loc: Loc, message: str) -> str:
    place, found = locate(marks, loc)
    return f"{place}: {'.'.join(map(str, found))}: {message}"


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


_ALSO_SAID = ("title", "negated_comparison_request", "score_request", "applies_when")
"""Texts besides requests that a model is shown, or a reader in the place of the principle."""


def _empty_texts(constitution: Constitution) -> Iterator[Problem]:
    """What would reach a model, or the gate, as nothing at all."""
    for index, principle in enumerate(constitution.principles):
        loc: Loc = ("principles", index)
        requests = {name: getattr(principle, name) for name in REQUESTS}
        if principle.check is None and all(text is None for text in requests.values()):
            needed = ", ".join((*REQUESTS, "check"))
            yield (*loc, REQUESTS[-1]), f"principle '{principle.id}' has no request (give one of {needed})"
        texts = {name: getattr(principle, name) for name in (*REQUESTS, *_ALSO_SAID)}
        yield from (((*loc, name), "empty text") for name, text in texts.items() if text is not None and _blank(text))
        for number, text in enumerate(principle.paraphrases):
            if _blank(text):
                yield (*loc, "paraphrases", number), "empty text"
        yield from _example_problems(principle, loc)


def _example_problems(principle: Principle, loc: Loc) -> Iterator[Problem]:
    for index, example in enumerate(principle.examples):
        here: Loc = (*loc, "examples", index)
        texts = {"prompt": example.prompt, "better": example.better, "worse": example.worse}
        yield from (((*here, name), "empty text") for name, text in texts.items() if _blank(text))
        if example.better.strip() == example.worse.strip() and not _blank(example.better):
            yield (*here, "worse"), "the same text as 'better': nothing to judge"
    chosen_on = {_content(example) for example in principle.examples if example.split == "tuning"}
    for index, example in enumerate(principle.examples):
        if example.split == "gate" and _content(example) in chosen_on:
            yield (*loc, "examples", index), "stands among the tuning examples, too, which must not confirm themselves"


def _content(example: Example) -> tuple[str, ...]:
    return tuple(text.strip() for text in (example.prompt, example.better, example.worse))


def _blank(text: str) -> bool:
    return not text.strip()
