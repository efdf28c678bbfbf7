"""What an interrupted command leaves, and the command that takes it up again: the very one that was given."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import get_args

from constitutional.processes import processes


def farewell(arguments: Sequence[str], reason: str = "interrupted") -> str:
    """What to say when a command is stopped.

    Args:
        arguments: those it was given, without the program's name.
        reason: why it was stopped.
    """
    from constitutional.settings import StageName

    command = next((word for word in arguments if not word.startswith("-")), "")
    keeps = command in ("run", "judge-pairs", "compare-arms", *get_args(StageName)) or any(
        word.split("=")[0] == "--ledger" for word in arguments
    )
    separator = "\n" if len(reason) > 40 else "; "
    launched = "" if processes() == 1 else f" a launch of {processes()} processes of"
    said = f"{reason}{separator}what is finished is kept. Resume with" if keeps else f"{reason}. Start again with"
    said += f"{launched}:"
    return f"{said}\n  {shlex.join(['constitutional', *arguments])}"
