"""Workers that a command started on its own machine end when it does, however it ended."""

from __future__ import annotations

import os
import signal
import threading


def end_with_parent() -> None:
    """Sends this process SIGTERM once standard input ends: the command that started it holds the other end."""

    def wait() -> None:
        while os.read(0, 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True, name="parent").start()
