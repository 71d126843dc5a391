"""What a worker in Ray does: it works on a sweep until no job is left, or something asks its process to end."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

from kdexp.commands.process import code_of, set_up
from kdexp.commands.work import start


def take_jobs(folder: Path, name: str, output: Path, workers: int, per_gpu: int, *, restarts: bool) -> None:
    """Works on a sweep as one of so many `workers` on this machine, and `per_gpu` on its GPU; prints to a file.

    Ends the process if it is asked to end and Ray `restarts` it: Ray does not know how to go on with a function. Raises
    `FileNotFoundError` if this machine lacks the folder.
    """
    if not folder.is_dir():
        host = socket.gethostname().partition(".")[0]
        raise FileNotFoundError(f"{host} has no {folder}: all workers of a sweep need the same disk at the same place")
    _print_to(output)
    set_up()
    try:
        start(folder, workers, per_gpu, name)
    except KeyboardInterrupt as stop:
        print("the last finished epoch is saved, and another worker goes on with this job", file=sys.stderr, flush=True)
        if restarts:
            os._exit(code_of(stop))


def _print_to(file: Path) -> None:
    """Sends what this process prints to a file, from now on."""
    file.parent.mkdir(exist_ok=True)
    with file.open("ab") as opened:
        os.dup2(opened.fileno(), 1)
        os.dup2(opened.fileno(), 2)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
