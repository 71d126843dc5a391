"""What every process that trains sets up first, and how signals end it."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

SPINS = "3000"
"""How often an OpenMP thread looks for work before it sleeps: about 0.1 ms, instead of several ms that other processes lack."""

BAD_CONFIG, SOME_FAILED, INTERRUPTED, TERMINATED = 2, 3, 130, 143


class Terminated(KeyboardInterrupt):
    """Raised on SIGTERM, so that it ends a run as Ctrl-C does."""

    exit_code = TERMINATED


def terminate(_signal: int, _frame: FrameType | None) -> None:
    """Handles a signal that asks this process to end; a second one must not interrupt the saving."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Terminated


def set_up() -> None:
    """Prepares the process before torch is imported."""
    signal.signal(signal.SIGTERM, terminate)
    if "OMP_WAIT_POLICY" not in os.environ:  # read when torch is imported
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    sys.set_int_max_str_digits(0)  # numbers of any length are read, and refused by name


def code_of(stop: KeyboardInterrupt) -> int:
    """The exit code of a process that was interrupted or terminated, or that lost another rank."""
    return getattr(stop, "exit_code", INTERRUPTED)
