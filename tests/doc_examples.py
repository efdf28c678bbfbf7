"""Runs the examples of a document: `$ command` lines of ```console blocks, in order, in one folder.

What follows a command, to the next one or the end of the block, is what it prints (stdout and stderr together). A line
that begins with `> ` belongs to the command before it. A block that opens with ```yaml title="NAME" is a file that the
reader writes at that point. Other blocks are left alone.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
_FENCE = re.compile(r"^```(?P<info>.*)\n(?P<body>(?:.*\n)*?)```$", re.MULTILINE)
_TITLE = re.compile(r'title="(?P<name>[\w.-]+)"')


@dataclass(frozen=True)
class Example:
    """A command as it is typed, and what the document says it prints."""

    line: int
    command: str
    output: str


def run_document(text: str, folder: Path) -> tuple[str, list[tuple[Example, str]]]:
    """Runs every example in `folder`.

    Returns:
        The document with the outputs that came, and each example with its own.
    """
    environment = _environment(folder)
    ran: list[tuple[Example, str]] = []
    place, pieces = 0, []
    for block in _FENCE.finditer(text):
        pieces.append(text[place : block.start("body")])
        place = block.end("body")
        body, info = block["body"], block["info"]
        title = _TITLE.search(info)
        if title:
            (folder / title["name"]).write_text(body, encoding="utf-8")
        elif info == "console":
            said = []
            for example in examples(body, text.count("\n", 0, block.start("body")) + 1):
                done = subprocess.run(
                    ["sh", "-c", example.command],
                    cwd=folder,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    timeout=120,
                )
                output = "".join(line.rstrip() + "\n" for line in done.stdout.splitlines())
                ran.append((example, output))
                said.append("$ " + example.command.replace("\n", "\n> ") + "\n" + output)
            body = "".join(said)
        pieces.append(body)
    return "".join([*pieces, text[place:]]), ran


def examples(body: str, line: int) -> list[Example]:
    """The commands of one console block; `line` is where it begins in the document."""
    found: list[Example] = []
    for number, row in enumerate(body.splitlines(keepends=True), line):
        if row.startswith("$ "):
            found.append(Example(number, row[2:].rstrip("\n"), ""))
        elif row.startswith("> ") and not found[-1].output:
            last = found[-1]
            found[-1] = Example(last.line, f"{last.command}\n{row[2:].rstrip()}", "")
        else:
            last = found[-1]
            found[-1] = Example(last.line, last.command, last.output + row)
    return found


def _environment(folder: Path) -> dict[str, str]:
    """A machine like any other: `constitutional` on the path, nobody's git settings, no models, 80 columns."""
    tools = folder.with_name(folder.name + "-bin")
    tools.mkdir()
    command = tools / "constitutional"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m constitutional "$@"\n')
    command.chmod(0o755)
    person = {"NAME": "A Gardener", "EMAIL": "gardener@example.com", "DATE": "2026-01-01T00:00:00Z"}
    return {
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HOME": str(tools),
        "CONSTITUTIONAL_CACHE": str(tools / "cache"),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "COLUMNS": "100",
        "LC_ALL": "C.UTF-8",
        **{f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER") for what, value in person.items()},
    }
