"""The constitution file an author starts from: `starter.yaml` beside this module, under the author's name for it."""

from __future__ import annotations

import json
from pathlib import Path

from constitutional.constitution.show import quoted
from constitutional.constitution.source import file_schema
from constitutional.errors import ConstitutionError, one_line

SUFFIXES = (".yaml", ".yml")
SCHEMA_FILE = "constitution.schema.json"
"""What the starter's first line names: editors look for it beside the file."""

_STARTER = Path(__file__).with_name("starter.yaml")


def start(path: Path, constitution_id: str) -> tuple[Path, ...]:
    """Writes a starter constitution and, where there is none yet, the schema beside it.

    Args:
        path: the new file.
        constitution_id: what the constitution is called.

    Returns:
        The files written, the constitution first.

    Raises:
        ConstitutionError: the file is there already, is no YAML file by its name, or cannot be written.
    """
    if path.suffix not in SUFFIXES:
        raise ConstitutionError(one_line(f"{path}: a constitution file ends in {' or '.join(SUFFIXES)}"))
    _write_new(path, _STARTER.read_text("utf-8").replace("\nid: starter\n", f"\nid: {quoted(constitution_id)}\n"))
    schema = path.with_name(SCHEMA_FILE)
    if schema.exists():
        return (path,)
    _write_new(schema, json.dumps(file_schema(), indent=2) + "\n")
    return path, schema


def _write_new(path: Path, text: str) -> None:
    """Never over a file that is there, and never half a file: what fails is taken away again."""
    try:
        with path.open("x", encoding="utf-8", newline="\n") as file:
            try:
                file.write(text)
                file.flush()
            except BaseException:
                path.unlink(missing_ok=True)
                raise
    except FileExistsError as error:
        raise ConstitutionError(one_line(f"{path}: is there already, and nothing is written over it")) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConstitutionError(one_line(f"{path}: cannot be written: {reason}")) from error
