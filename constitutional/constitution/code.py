"""The checks a constitution names, opened: the one place where reading a constitution executes code."""

from __future__ import annotations

from constitutional.checks import Check, open_check
from constitutional.constitution.compose import Composed
from constitutional.constitution.source import stop_if_any
from constitutional.errors import ConstitutionError
from constitutional.validation import locate


def open_checks(composed: Composed) -> dict[str, Check]:
    """The check of each principle that is code, by the principle's `id@version`.

    Raises:
        ConstitutionError: one line `file:line:col: key: message` for each that cannot be opened.
    """
    found: dict[str, Check] = {}
    problems = []
    for index, principle in enumerate(composed.constitution.principles):
        if principle.check is None:
            continue
        try:
            found[principle.ref] = open_check(principle.check)
        except ConstitutionError as error:
            place, loc = locate(composed.marks, ("principles", index, "check"))
            problems.append(f"{place}: {'.'.join(map(str, loc))}: {error}")
    stop_if_any(problems)
    return found
