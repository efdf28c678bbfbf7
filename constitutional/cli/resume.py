"""The command that takes an interrupted run up again: the very command that was given."""

from __future__ import annotations

import shlex
import sys


def command() -> str:
    """The command line of this process, quoted for a shell."""
    return shlex.join(["constitutional", *sys.argv[1:]])
