"""The C library's heap on Linux: what a step frees stays at hand for the next one, or goes back to the system."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
"""Names of glibc's settings, as `malloc.h` numbers them."""

ORDINARY = {MMAP_THRESHOLD: 32 * 2**20, TRIM_THRESHOLD: 64 * 2**20, MMAP_MAX: 65_536}
"""Where glibc's own adjustment ends, once a program has freed a block of 32 MB."""

NOTHING_GIVEN_BACK = {MMAP_MAX: 0, TRIM_THRESHOLD: 2**31 - 1}


@contextmanager
def retain_freed_memory() -> Iterator[None]:
    """Inside, memory that is freed is not given back to the system; afterwards it is, and all is as usual.

    Otherwise glibc maps every large tensor anew and unmaps it when it is freed, so that the system must clear all its pages
    again at each step: a third of the time of a network with large maps on the CPU. What is computed is the same, bit for bit.
    Without effect where there is no glibc.
    """
    _set(NOTHING_GIVEN_BACK)
    try:
        yield
    finally:
        _set(ORDINARY)
        give_back()


def give_back() -> None:
    """Returns what was freed to the system.

    Blocks of a few megabytes leave holes in the heap in which the next ones find no room, once small ones lie between: a
    process through which images flow would grow, epoch for epoch, by about as much as these take.
    """
    if library := _library():
        library.malloc_trim(0)


def _set(values: dict[int, int]) -> None:
    if library := _library():
        for name, value in values.items():
            library.mallopt(name, value)


def _library() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
