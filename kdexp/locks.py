"""Locks between processes, on file systems that have them."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

from filelock import FileLock, Timeout

UNSUPPORTED = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)


def acquire(path: Path, work: str, until: ExitStack, say: Callable[[str], None]) -> bool:
    """Locks a file for `work` until the stack unwinds, waiting for the process that has it; the system frees a dead one's.

    Returns False, and says so, where the file system has no locks.
    """
    lock = FileLock(path, fallback_to_soft=False)
    try:
        try:
            lock.acquire(blocking=False)
        except Timeout:
            say(f"waiting for {_holder(path)}, which trains {work}")
            lock.acquire()
            say(f"no longer waiting: {work} is free")
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        say(f"no locks on this file system ({path.parent}): another run that needs {work} now would train it too")
        return False
    until.callback(lock.release)
    with suppress(OSError):  # a full disk can hold a lock, but not say whose
        path.write_text(f"process {os.getpid()} on {socket.gethostname()}")
    return True


def held_elsewhere(path: Path) -> bool:
    """Whether another process has that lock now."""
    lock = FileLock(path, fallback_to_soft=False)
    try:
        lock.acquire(blocking=False)
        lock.release()
    except Timeout:
        return True
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
    return False


def _holder(path: Path) -> str:
    return path.read_text() or "another process"
