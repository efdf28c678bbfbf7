"""FSDP2 without a GPU: torch shares weights out over gloo as well, but accelerate turns it on for accelerators only.

with_fsdp()      before anything trains, in a process that `accelerate launch` started with an FSDP file
"""

from __future__ import annotations

import gc
from typing import Any

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from torch.distributed.fsdp import FSDPModule


def with_fsdp() -> None:
    """Makes accelerate do on the CPU what it does with a plugin on a GPU."""
    begin = AcceleratorState.__init__

    def initialise(self: AcceleratorState, *args: Any, **named: Any) -> None:
        begin(self, *args, **named)
        if named.get("fsdp_plugin") is not None:
            self.fsdp_plugin = named["fsdp_plugin"]
            self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    AcceleratorState.__init__ = initialise  # type: ignore[method-assign]


def in_parts() -> bool:
    """Whether torch shared any module's weights out in this process."""
    return any(FSDPModule in type(held).__mro__ for held in gc.get_objects())
