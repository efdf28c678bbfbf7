"""Checks that tests write to a folder: loose modules, and distributions that register an entry point."""

from __future__ import annotations

from pathlib import Path

SORRY = '''
def says_sorry(conversation, response):
    """1 with "sorry", 0 without; nothing of a "Maybe"; fails on "Sure 7"."""
    if "Maybe" in response:
        return None
    if "Sure 7" in response:
        raise ValueError("seven\\nis hostile")
    return "sorry" in response
'''


def write_module(folder: Path, name: str, text: str = SORRY) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.py"
    path.write_text(text)
    return path


def write_distribution(folder: Path, name: str, version: str, entries: dict[str, str], files: tuple[str, ...]) -> None:
    """What installing a distribution leaves beside its modules."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = "".join(f"{key} = {value}\n" for key, value in entries.items())
    (info / "entry_points.txt").write_text(f"[constitutional.checks]\n{lines}")
    (info / "RECORD").write_text("".join(f"{file},,\n" for file in files))
