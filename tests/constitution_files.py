"""Small constitution files for tests."""

from pathlib import Path

HEAD = "id: mine\nversion: 1.0.0\ntitle: Mine\n"


def principle(name: str, text: str = "Which is better?", version: str = "1.0.0", more: str = "") -> str:
    return f"  - id: {name}\n    version: {version}\n    title: {name.title()}\n    comparison_request: {text}\n{more}"


def write(folder: Path, name: str, *principles: str, head: str = "") -> Path:
    """A constitution file: usual names, then `head`, then the principles."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(HEAD + head + ("principles:\n" + "".join(principles) if principles else ""))
    return path
