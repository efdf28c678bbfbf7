"""Which of the processes of a launch this one is, as torchrun and `accelerate launch` tell it.

One process leads: it alone writes run folders and talks to people. Without a launcher the only process leads.
"""

from __future__ import annotations

import os


def rank() -> int:
    """This process's number among all, from 0."""
    return int(os.environ.get("RANK", "0"))


def processes() -> int:
    """How many there are."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def leads() -> bool:
    """Whether this is the process that writes."""
    return rank() == 0


def wait_for_all() -> None:
    """Returns when every process has come here."""
    if processes() > 1:
        import torch
        from accelerate import PartialState

        PartialState(cpu=not torch.cuda.is_available()).wait_for_everyone()
