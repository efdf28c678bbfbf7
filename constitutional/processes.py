"""Which of the processes of a launch this one is, as torchrun and `accelerate launch` tell it.

One process leads: it alone writes run folders and talks to people. Without a launcher the only process leads.
"""

from __future__ import annotations

import os
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
