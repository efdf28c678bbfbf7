"""Opens the code that a principle's `check` names, and calls it.

A check is named as `package.module:callable`, or by a name that an installed distribution registered for it in the
entry-point group `constitutional.checks`. Opening one executes code: only what a constitution names is ever imported,
and only to run, to validate or to test.
"""

from __future__ import annotations

import hashlib
import importlib
import numbers
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from importlib import metadata
from pathlib import Path
from types import MappingProxyType, ModuleType

from constitutional.errors import ConstitutionError, nearest, one_line
from constitutional.principles import Principle
from constitutional.records import Dialogue, short_digest

GROUP = "constitutional.checks"

PASSES = 0.5
"""From this score on an answer passes a check."""

CheckFunction = Callable[[Dialogue, str], float | None]
"""Scores a response to a conversation: 1 is as the principle wants it, 0 the opposite, None says nothing of it.

Equal arguments must give equal scores; True and False are 1 and 0.
"""

_SHOWN = 200

_SHIPPED_SOURCES = ("checks/*.py", "text_metrics.py", "records.py")
"""What the shipped checks are made of, from the package's folder: themselves and what they import for their scores."""


@dataclass(frozen=True)
class Check:
    """An opened check. `identity` names the function and the version of its code."""

    name: str
    function: CheckFunction
    identity: str


@dataclass(frozen=True)
class Score:
    """What a check said of one answer; `value` is None where it does not apply, or `error` says what is wrong."""

    value: float | None
    error: str | None = None

    @property
    def passes(self) -> bool:
        """True when the answer is as the principle wants it."""
        return self.value is not None and self.value >= PASSES


NO_CHECKS: Mapping[str, Check] = MappingProxyType({})
"""For a constitution that is all text."""


def open_check(name: str) -> Check:
    """Imports a check.

    Args:
        name: `package.module:callable`, or the name of an entry point.

    Raises:
        ConstitutionError: nothing of that name (with the nearest one), it cannot be imported, or it is no callable.
    """
    if ":" in name:
        module_name, _, attribute = name.partition(":")
        distributions = None
    else:
        entry = _entry_point(name)
        module_name, attribute = entry.module, entry.attr
        distributions = [entry.dist] if entry.dist else []
    module = _imported(module_name)
    try:
        function = reduce(getattr, attribute.split("."), module)
    except AttributeError:
        public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        message = f"module '{module_name}' has no '{attribute}'{nearest(attribute, public)}"
        raise ConstitutionError(one_line(message)) from None
    if not callable(function):
        raise ConstitutionError(one_line(f"'{module_name}:{attribute}' cannot be called"))
    return Check(name, function, f"check:{module_name}:{attribute} {_version(module, function, distributions)}")


def score(check: Check, conversation: Dialogue, response: str) -> Score:
    """Calls a check on one answer; whatever goes wrong in it is an error that names it, never a score."""
    try:
        value = check.function(conversation, response)
        if value is None:
            return Score(None)
        if _is_number(value) and 0 <= (number := float(value)) <= 1:
            return Score(number)
        return Score(None, _wrong(check, f"gave {value!r:.80}, not a number in [0, 1] or None"))
    except (Exception, SystemExit) as error:  # foreign code, and foreign values: one bad item must not end the run
        return Score(None, _wrong(check, _told(error)))


def coded_digest(principle: Principle, identity: str | None) -> str:
    """A principle's digest; of one that is code it covers the code's identity, too.

    Args:
        principle: the principle.
        identity: its check's, None for a principle without one.
    """
    return principle.digest if identity is None else short_digest([principle.digest, identity])


def _is_number(value: object) -> bool:
    """Real numbers, and NumPy's own booleans, which are none to `numbers` (nor to `operator.index`)."""
    numpy = sys.modules.get("numpy")  # a value of NumPy's is only made where somebody imported it
    return isinstance(value, numbers.Real) or (numpy is not None and isinstance(value, numpy.bool_))


def _told(error: BaseException) -> str:
    """The error's kind and message; its kind alone where its message cannot be had."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:
        return type(error).__name__


def _wrong(check: Check, what: str) -> str:
    text = one_line(f"check {check.name}: {what}")
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def _entry_point(name: str) -> metadata.EntryPoint:
    entries = metadata.entry_points(group=GROUP)
    found = {entry.value: entry for entry in entries if entry.name == name}
    if not found:
        raise ConstitutionError(one_line(f"no check '{name}' is installed{nearest(name, entries.names)}"))
    if len(found) > 1:
        who = ", ".join(sorted(found))
        raise ConstitutionError(one_line(f"'{name}' is the name of several checks: name one as {who}"))
    (entry,) = found.values()
    return entry


def _imported(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
            message = f"no module '{error.name}' (is it installed, or its folder on PYTHONPATH?)"
        else:
            message = f"module '{name}' cannot be imported: {_told(error)}"
        raise ConstitutionError(one_line(message)) from error


def _version(module: ModuleType, function: object, distributions: list[metadata.Distribution] | None) -> str:
    """`NAME==VERSION` of the distribution whose files hold the module, else the digest of the source.

    A distribution installed in place (`pip install -e`) keeps its version while its code changes; its file list does
    not hold the module, so the source counts: all of the package's, for a check may call any of it.
    """
    home = sys.modules.get(getattr(function, "__module__", None) or type(function).__module__, module)
    modules = {_file(found): found for found in (module, home)}
    files = list(modules)
    if distributions is None:
        top = module.__name__.partition(".")[0]
        distributions = [metadata.distribution(name) for name in set(metadata.packages_distributions().get(top, []))]
    for distribution in distributions:
        names = {file.name for file in files}
        held = (distribution.locate_file(path) for path in distribution.files or () if path.name in names)
        if files[0] in {Path(str(path)).resolve() for path in held}:
            return f"{distribution.name}=={distribution.version}"
    try:
        sources = dict(source for file, found in modules.items() for source in _sources(found, file))
        digests = [[name, hashlib.sha256(sources[name].read_bytes()).hexdigest()] for name in sorted(sources)]
        return f"sha256:{short_digest(digests)}"
    except OSError as error:
        raise ConstitutionError(
            one_line(f"the source of module '{module.__name__}' cannot be read: {error}")
        ) from error


def _file(module: ModuleType) -> Path:
    file = getattr(module, "__file__", None)
    if file is None:
        raise ConstitutionError(f"module '{module.__name__}' has no file to tell the version of its code by")
    return Path(file).resolve()


def _sources(module: ModuleType, file: Path) -> Iterator[tuple[str, Path]]:
    """The files that hold a module's code, by their path from above the top-level package; a lone module's own.

    Of the package that the shipped checks stand in, only what they are made of: a change to a template or a trainer is
    none to them.
    """
    top = module.__name__.partition(".")[0]
    folders = [Path(folder).resolve() for folder in getattr(sys.modules.get(top), "__path__", ())]
    home = next((folder for folder in folders if file.is_relative_to(folder)), None)
    if home is None:
        yield file.name, file
        return
    shipped = file.is_relative_to(Path(__file__).resolve().parent)
    found = [path for pattern in (_SHIPPED_SOURCES if shipped else ["**/*.py"]) for path in home.glob(pattern)]
    for path in {file, *found}:
        yield f"{home.name}/{path.relative_to(home).as_posix()}", path
