"""Which of the processes of a launch this one is, as torchrun and `accelerate launch` tell it.

One process leads: it alone writes run folders and talks to people. Without a launcher the only process leads.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

T = TypeVar("T")

PATIENCE = timedelta(days=60)
"""For waits as long as another process's work: the limit of a training's own group is one of minutes."""


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


def patient_group() -> Any:
    """A new group of all processes, on sockets, whose waits have no limit; every process makes it at the same time."""
    import torch
    from accelerate import PartialState

    PartialState(cpu=not torch.cuda.is_available())
    return torch.distributed.new_group(backend="gloo", timeout=PATIENCE)


def told_by_leader(work: Callable[[], T]) -> T:
    """What the leading process makes of `work`, in every process, however long that takes. All call it together."""
    if processes() == 1:
        return work()
    import torch

    group = patient_group()
    told = [work() if leads() else None]
    torch.distributed.broadcast_object_list(told, src=0, group=group, device=torch.device("cpu"))
    torch.distributed.destroy_process_group(group)
    return told[0]  # type: ignore[return-value]


def end_groups() -> None:
    """Ends what joins the processes of a launch, when all they were to do together is done.

    Left to the end of the process, the threads of a group on sockets abort it now and then, exit code -6 and all, and
    the launcher takes a finished run for a failed one. Not for the way out after an error: to end a group may mean to
    wait for a process that waits for this one.
    """
    if processes() > 1 and "torch" in sys.modules:
        import torch

        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
