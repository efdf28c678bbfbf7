"""What this machine's processor can really do."""

from __future__ import annotations

import faulthandler
import logging
import math
import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from constitutional.backends.memory import keep_freed_memory

_LIMIT = "ONEDNN_MAX_CPU_ISA"  # read by oneDNN, the matrix library in torch and in OpenVINO, at its first use
_WITHOUT_AMX = "AVX512_CORE_FP16"
_log = logging.getLogger(__name__)


@cache
def amx_works() -> bool:
    """True where bfloat16 matrix products run on AMX units.

    Some virtual machines announce AMX and cannot run it: the first bfloat16 product ends the process with SIGILL,
    without a word. There oneDNN is kept from it, so call this before the first product. A limit the user has set stays.
    """
    if os.environ.get(_LIMIT, "").upper() not in ("", "DEFAULT", "ALL"):
        return "AMX" in os.environ[_LIMIT].upper()
    if not _announces_amx():
        return False
    if _survives(_multiply_bfloat16):
        return True
    os.environ[_LIMIT] = _WITHOUT_AMX
    _log.warning("this processor announces AMX but cannot run it: going on without (%s=%s)", _LIMIT, _WITHOUT_AMX)
    return False


def prepare_process() -> None:
    """What a process needs before its first matrix product: no units that would kill it, freed memory kept at hand."""
    amx_works()
    keep_freed_memory()


def fast_cpu_dtype() -> str:
    """The number type this processor multiplies fastest: "bfloat16" with AMX, else "float32".

    AVX-512 alone has bfloat16 instructions too, but there float32 is faster (docs/LOG.md).
    """
    return "bfloat16" if amx_works() else "float32"


def fast_dtype() -> str:
    """The number type torch multiplies fastest here, on a GPU where there is one."""
    import torch

    if torch.cuda.is_available():
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return fast_cpu_dtype()


def device() -> str:
    """Where torch computes here: "cuda" where there is a GPU, else "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def resolved_dtype(dtype: str) -> str:
    """`dtype`, or this machine's fast one for "auto"."""
    return fast_dtype() if dtype == "auto" else dtype


def usable_processors(root: Path = Path("/")) -> int:
    """Processors that this process may use: those it may run on, and no more than its container's quota (cgroup v2)."""
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([own, *_quotas(root)])


def use_threads(threads: int | None) -> None:
    """Has torch compute in so many CPU threads.

    None is torch's own choice (a processor's cores, or OMP_NUM_THREADS), but no more threads than `usable_processors`:
    torch does not see a container's quota, and threads that take turns on a processor wait for one another.
    """
    import torch

    torch.set_num_threads(threads or min(torch.get_num_threads(), usable_processors()))


def _quotas(root: Path) -> Iterator[int]:
    """Whole processors a container gives, from its own control group up to the root's; nothing where there is none."""
    try:
        lines = (root / "proc/self/cgroup").read_text("ascii", errors="replace").splitlines()
    except OSError:
        return
    place = next((line[3:].strip("/") for line in lines if line.startswith("0::")), "")
    top = root / "sys/fs/cgroup"
    for folder in (top / place, *(top / above for above in Path(place).parents)):
        try:
            quota, period = (folder / "cpu.max").read_text("ascii").split()
            if quota != "max":
                yield max(1, math.ceil(int(quota) / int(period)))
        except (OSError, ValueError, ZeroDivisionError):
            continue


def _announces_amx() -> bool:
    try:
        return " amx_tile" in Path("/proc/cpuinfo").read_text("ascii", errors="replace")
    except OSError:
        return False


def _survives(work: Callable[[], object]) -> bool:
    """True when a forked child gets through `work` alive."""
    child = os.fork()
    if child == 0:
        try:
            faulthandler.disable()  # the death is expected: no report of it
            work()
        finally:
            os._exit(0)  # whatever else went wrong in the child, it was not killed
    return not os.WIFSIGNALED(os.waitpid(child, 0)[1])


def _multiply_bfloat16() -> None:
    import torch

    torch.set_num_threads(1)  # a forked child has lost its parent's threads
    matrix = torch.ones(64, 64, dtype=torch.bfloat16)
    matrix @ matrix
