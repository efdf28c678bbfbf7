"""Where a named constitution or template pack lies: given path, then working directory, then the packaged copy."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from constitutional.errors import ConfigError, nearest, nearest_file

Kind = Literal["constitutions", "prompts"]

PACK_FILE = "pack.yaml"
_PACKAGE = Path(__file__).resolve().parent
_LABELS: dict[Kind, str] = {"constitutions": "constitution", "prompts": "template pack"}


def packaged(kind: Kind) -> Path | None:
    """The folder that comes with the package: inside the wheel, or the repository's own in a source checkout."""
    inside = _PACKAGE / "_data" / kind
    if inside.is_dir():
        return inside
    checkout = _PACKAGE.parent
    return checkout / kind if (checkout / "pyproject.toml").is_file() and (checkout / kind).is_dir() else None


def known(kind: Kind) -> tuple[str, ...]:
    """Names that `find` resolves without a path, sorted."""
    pattern = "*.yaml" if kind == "constitutions" else f"*/{PACK_FILE}"
    found = [path for folder in _folders(kind) for path in folder.glob(pattern)]
    return tuple(sorted({path.stem if kind == "constitutions" else path.parent.name for path in found}))


def find(kind: Kind, name: str) -> Path:
    """The file of a constitution, or the folder of a template pack.

    Args:
        kind: which of the two.
        name: a path, or a bare name such as `minimal` (looked up with and without `.yaml`).

    Raises:
        ConfigError: nothing of that kind there, with the nearest known name.
    """
    candidates = [Path(name)]
    for folder in _folders(kind):
        candidates += [folder / name] + ([folder / f"{name}.yaml"] if kind == "constitutions" else [])
    for candidate in candidates:
        if name and _fits(kind, candidate):
            return candidate
    if name and _is_dir(Path(name)):
        lacks = f"is a folder without {PACK_FILE}" if kind == "prompts" else "is a folder: name a file in it"
        raise ConfigError(f"no {_LABELS[kind]} '{name}' ({name} {lacks}){nearest(name, known(kind))}")
    if kind == "constitutions" and name.endswith((".yaml", ".yml")):
        raise ConfigError(f"{name}: no such file{nearest_file(Path(name)) or nearest(Path(name).stem, known(kind))}")
    raise ConfigError(f"no {_LABELS[kind]} '{name}'{nearest(name, known(kind))}")


def _folders(kind: Kind) -> list[Path]:
    return [folder for folder in (Path(kind), packaged(kind)) if folder is not None]


def _fits(kind: Kind, path: Path) -> bool:
    """A bare folder called like a pack does not shadow the pack: only its settings file makes it one."""
    try:
        return (path if kind == "constitutions" else path / PACK_FILE).is_file()
    except OSError:  # a name too long for the file system
        return False


def _is_dir(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False
