"""The C library's heap on Linux: memory that a step frees is kept for the next step, or returned to the system."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
"""glibc's settings by their numbers in `malloc.h`."""

DEFAULTS = {MMAP_THRESHOLD: 32 * 2**20, TRIM_THRESHOLD: 64 * 2**20, MMAP_MAX: 65_536}
"""What glibc adjusts itself to, once a program has freed a block of 32 MB."""

KEEP_EVERYTHING = {MMAP_MAX: 0, TRIM_THRESHOLD: 2**31 - 1}


@contextmanager
def retain_freed_memory() -> Iterator[None]:
    """Inside, freed memory stays with the process; afterwards it is returned to the system.

    Otherwise glibc maps memory for every large tensor and unmaps it when the tensor is freed, so that the system clears all its
    pages again at each step: a third of the time of a network with large maps on the CPU. Results are bitwise the same.
    No effect without glibc.
    """
    _set(KEEP_EVERYTHING)
    try:
        yield
    finally:
        _set(DEFAULTS)
        trim()


def trim() -> None:
    """Returns freed memory to the system.

    Blocks of a few megabytes leave holes in the heap that the next ones don't fit into, once small blocks lie in between.
    Without trimming, a process that reads images would grow with each epoch by about the size of its images.
    """
    if library := _library():
        library.malloc_trim(0)


def _set(values: dict[int, int]) -> None:
    if library := _library():
        for name, value in values.items():
            library.mallopt(name, value)


def _library() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
