"""What a launch that shares weights out over processes (FSDP, DeepSpeed) rules out, and whether this is one.

The same is refused twice: at once where the launcher says what it will do, and by each training for itself, before its
first step, where nothing was said.
"""

from __future__ import annotations

import os

_REMEDY = "launch with MULTI_GPU (DDP)"
ADAPTERS = f"adapters cannot be merged under FSDP or DeepSpeed: {_REMEDY}"
PPO = f"rl: ppo keeps its networks whole in every process: {_REMEDY}"
WATCH = (
    "rl.watch: a probe asks each process its own prompts, which FSDP and DeepSpeed would wait on for ever: " + _REMEDY
)
PROBE = f"pm.head: a probe is not to be had under DeepSpeed, which parts the weights it is set in: {_REMEDY}"


def shares_weights_out(*by: str) -> bool:
    """Whether `accelerate launch` was told to; read as accelerate reads it. Only on GPUs does it come to FSDP.

    Args:
        by: "FSDP" or "DEEPSPEED"; either when empty.
    """
    told = (os.environ.get(f"ACCELERATE_USE_{name}", "false") for name in by or ("FSDP", "DEEPSPEED"))
    return any(value.lower() == "true" for value in told)
