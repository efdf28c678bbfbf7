"""TRL's fused LM head, kept from scoring positions that carry no label when there is no Triton."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trl.trainer.utils as trl_utils


@contextmanager
def labelled_positions_only() -> Iterator[None]:
    """Within the block, TRL projects only labelled positions through the LM head, on a CPU as on a GPU.

    Without Triton TRL scores prompts and padding too and throws the result away; the losses are the same. The switch
    is a private name of TRL 1.16; where it is gone nothing changes but the speed.
    """
    name = "_use_triton"
    theirs = getattr(trl_utils, name, None)
    if theirs is None:
        yield
        return
    setattr(trl_utils, name, lambda device: True)  # the kernels look up their own copy and stay on plain torch
    try:
        yield
    finally:
        setattr(trl_utils, name, theirs)
