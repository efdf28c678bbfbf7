"""Constitutions as they stood at a git revision, together with what they extended then."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

from constitutional.constitution.compose import Composed, compose
from constitutional.constitution.loader import checked, load_composed
from constitutional.constitution.source import DISK, Tree
from constitutional.errors import ConfigError, ConstitutionError, nearest
from constitutional.resources import find
from constitutional.validation import Marks
from constitutional.yamlfile import parse_bytes

_AT_REVISION = re.compile(r"(.+?\.ya?ml)@(.+)|([^@]+)@(.+)", re.DOTALL)


def open_constitution(spec: str) -> Composed:
    """A constitution by path, by name, or either as it stood at a revision: `mine.yaml@v1`, `mine.yaml@HEAD~2`.

    What it extends is read at that revision too, where it lies in the same repository, else as it is now.

    Raises:
        ConfigError: no such constitution, repository or revision.
        ConstitutionError: one line `file@revision:line:col: key: message` for each thing wrong.
    """
    match = _AT_REVISION.fullmatch(spec)
    if match is None or "\0" in spec or _is_there(Path(spec)):
        return load_composed(spec)
    name, revision = match[1] or match[3], match[2] or match[4]
    try:
        path = find("constitutions", name).resolve()
    except ConfigError:
        if not match[1]:
            raise
        path = Path(name).resolve()  # gone by now, or moved
    top = _repository(path, spec)
    commit = _commit(top, revision, spec)
    if not path.is_relative_to(top) or not _is_file(top, commit, path):
        raise ConfigError(f"{spec}: no such file at that revision")
    return checked(compose(path, _tree(top, commit, revision)))


def _tree(top: Path, commit: str, revision: str) -> Tree:
    def beside(file: Path, name: str) -> Path | None:
        try:
            path = (file.parent / name).resolve()
        except (OSError, ValueError):
            return None
        if not path.is_relative_to(top):
            return DISK.beside(file, name)
        return path if _is_file(top, commit, path) else None

    def load(path: Path) -> tuple[Any, Marks]:
        path = path.resolve()
        if not path.is_relative_to(top) or not _is_file(top, commit, path):  # elsewhere, or a packaged file
            return DISK.load(path)
        raw = _git(top, "cat-file", "blob", _object(top, commit, path))
        return parse_bytes(raw.stdout, f"{_shown(path)}@{revision}", ConstitutionError)

    return Tree(beside, load)


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name too long for the file system
        return False


def _repository(path: Path, spec: str) -> Path:
    folder = next(folder for folder in path.parents if _is_there(folder))
    found = _git(folder, "rev-parse", "--show-toplevel")
    if found.returncode:
        reason = found.stderr.decode("utf-8", "replace").splitlines() or ["not in a git repository"]
        raise ConfigError(f"{spec}: {reason[0].removeprefix('fatal: ')}")
    return Path(os.fsdecode(found.stdout).rstrip("\r\n")).resolve()


def _commit(top: Path, revision: str, spec: str) -> str:
    found = None
    if not revision.startswith("-") and "\0" not in revision:
        found = _git(top, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
    if found is None or found.returncode:
        newest = ("--count=20", "--sort=-creatordate", "--format=%(refname:short)", "refs/tags", "refs/heads")
        names = _git(top, "for-each-ref", *newest).stdout.decode("utf-8", "replace").split()
        raise ConfigError(f"{spec}: no revision '{revision}'{nearest(revision, names)}")
    return found.stdout.decode("ascii").strip()


def _object(top: Path, commit: str, path: Path) -> str:
    return f"{commit}:{path.relative_to(top).as_posix()}"


def _is_file(top: Path, commit: str, path: Path) -> bool:
    found = _git(top, "cat-file", "-t", _object(top, commit, path))
    return found.returncode == 0 and found.stdout.strip() == b"blob"


def _shown(path: Path) -> str:
    """Relative to here where it lies below, as a person would write it."""
    here = Path.cwd().resolve()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = ["git", "-C", str(folder), *arguments]
    try:
        return subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, check=False)
    except FileNotFoundError as error:
        raise ConfigError("git is needed to read a revision, and is not installed") from error
