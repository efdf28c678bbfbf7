"""A run folder as an audit reads it: what is current in it, without a lock and without changing anything."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml

from constitutional.errors import RunError
from constitutional.feedback.applies import Applicability
from constitutional.ledger import Ledger, open_ledger_read_only
from constitutional.principles import Constitution
from constitutional.records import Prompt, Record
from constitutional.runs import StageResult, load_result, read_log
from constitutional.runs.logs import read_rows
from constitutional.settings import StageName

R = TypeVar("R", bound=Record)

STEP_NAMES: tuple[str, ...] = get_args(StageName)
"""Every step a recipe can have, in order."""


CHECKS_SUFFIX = ".checks.json"
"""Beside a constitution a run keeps: what the code of its checks was, one object of `id@version` to identity a time."""


@dataclass(frozen=True)
class ConstitutionText:
    """A constitution a run was made under, and the identities of its checks then."""

    constitution: Constitution
    checks: dict[str, str]


@dataclass(frozen=True)
class RunView:
    """What a run folder holds now. A context manager, which closes the ledger if it was opened."""

    path: Path
    recipe: dict[str, Any]
    lock: dict[str, Any]
    constitution: Constitution
    prompts: dict[str, Prompt]
    folders: dict[str, str]
    """The current stage folder of each finished step, relative to `path`."""

    def __enter__(self) -> RunView:
        return self

    def __exit__(self, *_: object) -> None:
        if "ledger" in self.__dict__ and self.ledger is not None:
            self.ledger.close()

    @cached_property
    def ledger(self) -> Ledger | None:
        """The ledger, read-only; None when the run has none."""
        path = self.path / "ledger.sqlite"
        return open_ledger_read_only(path) if path.exists() else None

    @cached_property
    def texts(self) -> list[ConstitutionText]:
        """Every constitution the run was made under with each code its checks had, the present one first.

        Raises:
            RunError: one of them cannot be read.
        """
        found = [ConstitutionText(self.constitution, dict(self.lock.get("checks", {})))]
        for path in sorted((self.path / "constitutions").glob("[0-9a-f]*.json")):
            if path.name.endswith(CHECKS_SUFFIX):
                continue
            text = _record(path, 1, _json(path), Constitution)
            beside = path.with_name(path.stem + CHECKS_SUFFIX)
            kept = _json(beside).get("checks") if beside.exists() else [{}]
            if not isinstance(kept, list) or not all(isinstance(checks, dict) for checks in kept):
                raise RunError(f"{beside}: expected a list of objects under 'checks'")
            found += [ConstitutionText(text, checks) for checks in kept]
        return found

    def step(self, name: str) -> StageResult | None:
        """The finished step of that name, or None.

        Raises:
            RunError: current.json points outside the run folder.
        """
        if name not in self.folders:
            return None
        folder = self.path / self.folders[name]
        # the stages of a round, or of an arm, are links to those of the folder above it
        if not folder.resolve().is_relative_to((self.path / "stages").resolve()):
            raise RunError(f"{self.path / 'current.json'}: step '{name}' lies outside the run folder")
        return load_result(folder)

    def rows(self, name: str, file: str, record_type: type[R]) -> list[R]:
        """The records of one file of a step; none when the step or the file is not there.

        Raises:
            RunError: a damaged line, or a file that is not the one the step's manifest names.
        """
        result = self.step(name)
        return [] if result is None or file not in result.manifest.outputs else result.read(file, record_type)

    def verdicts(self, name: str) -> list[Applicability]:
        """What a step's judge said to whether principles apply; nothing where it was not asked. Raises as `rows`."""
        result = self.step(name)
        files = [file for file in result.manifest.outputs if file.startswith("applies")] if result else []
        return [verdict for file in files for verdict in self.rows(name, file, Applicability)]

    def figures(self, name: str, file: str, record_type: type[R]) -> R | None:
        """The one record in a JSON file of a step; None when the step or the file is not there. Raises as `rows`."""
        found = self.rows(name, file, record_type)
        return found[0] if found else None

    def metrics(self, name: str) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl that the current build of a step logged, those of attempts it gave up left out."""
        result = self.step(name)
        if result is None:
            return []
        begun, ended = result.manifest.started, result.manifest.ended
        rows: list[dict[str, Any]] = []
        for row in read_log(self.path / "metrics.jsonl"):
            if row.get("stage") == name and begun <= str(row.get("time")) <= ended:
                if rows and _step(row) < _step(rows[-1]):  # training began anew after an interruption
                    rows = []
                rows.append(row)
        return rows


def open_view(path: Path) -> RunView:
    """Opens a run folder for reading; nothing in it is locked or changed.

    Raises:
        RunError: it is no run folder, or a file of it is damaged.
    """
    if not (path / "run.yaml").is_file():
        what = "no run.yaml in it" if path.is_dir() else "a file" if path.exists() else "no such folder"
        raise RunError(f"{path} is not a run folder: {what}")
    constitution = path / "constitution.json"
    prompts = [_record(path / "prompts.jsonl", n, row, Prompt) for n, row in read_rows(path / "prompts.jsonl")]
    current = _json(path / "current.json") if (path / "current.json").exists() else {}
    return RunView(
        path=path,
        recipe=_yaml(path / "run.yaml"),
        lock=_json(path / "lock.json"),
        constitution=_record(constitution, 1, _json(constitution), Constitution),
        prompts={prompt.id: prompt for prompt in prompts},
        folders={name: str(folder) for name, folder in current.items()},
    )


def _step(row: dict[str, Any]) -> float:
    step = row.get("step", 0)
    return step if isinstance(step, int | float) else 0


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise RunError(f"{path}: expected a JSON object")
    return data


def _yaml(path: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(path.read_bytes())
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise RunError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise RunError(f"{path}: expected a mapping")
    return data


def _record(path: Path, number: int, row: dict[str, Any], record_type: type[R]) -> R:
    try:
        return record_type.model_validate(row)
    except ValueError as error:
        raise RunError(f"{path}:{number}: damaged line: {' '.join(str(error).split())}") from error
