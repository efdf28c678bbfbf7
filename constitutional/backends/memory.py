"""What glibc does with freed memory. Another C library is left alone."""

from __future__ import annotations

import ctypes
import gc
import sys
from contextlib import suppress

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_LIBC = "libc.so.6"


def keep_freed_memory() -> None:
    """Lets later tensors take the place of freed ones.

    By default each tensor of some megabytes is fresh memory from the kernel, which clears it page by page: of a CPU
    training step that took a quarter (docs/LOG.md).
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(_LIBC)
        libc.mallopt(_M_MMAP_THRESHOLD, 2**30)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def release_memory() -> None:
    """Gives freed memory back to the system, that of dropped models too: they are reference cycles."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
    trim_memory()


def trim_memory() -> None:
    """Gives the system the holes between what is in use: a few milliseconds.

    Tensors of ever other sizes do not fit the holes that earlier ones left, and the process grows.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(_LIBC).malloc_trim(0)
