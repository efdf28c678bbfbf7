"""What glibc does with freed memory. Another C library is left alone."""

from __future__ import annotations

import ctypes
import gc
import os
from contextlib import suppress
from pathlib import Path

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_LIBC = "libc.so.6"
_MODEL = 2**27
"""Bytes that a dropped model would at least leave behind."""
_left = 0
"""Bytes resident when memory was last given back."""


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
    """Gives freed memory back to the system, that of dropped models too: they are reference cycles.

    A process that has hardly grown since the last time is left alone, for looking through the objects of all the
    libraries that are loaded takes a good part of a second.
    """
    global _left
    resident = _resident()
    if resident is not None and resident < _left + _MODEL:
        return
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(_LIBC).malloc_trim(0)
    _left = _resident() or 0


def _resident() -> int | None:
    """Bytes of this process in memory; None where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None
