"""Commands with a limited time, in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CUT_OFF = "cut off"


def python(module: str, *words: str) -> list[str]:
    """The command that runs a module with this interpreter."""
    return [sys.executable, "-m", module, *words]


def environment() -> Mapping[str, str]:
    """That of this process, with kdexp from this source tree, and output that appears line by line."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "benchmarks"), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "COLUMNS": "140"}


def run(command: Sequence[str], seconds: float, *, log: Path | None = None, grace: float = 10, apart: bool = False) -> str:
    """Runs a command for at most `seconds`; returns an empty string, `cut off`, or `exit code N`.

    When the time is over, or this process is interrupted, the command is interrupted as by Ctrl-C, and killed `grace` seconds
    later. One that is set `apart` does not get this terminal's Ctrl-C, and is killed together with the processes that it has
    started. Output goes to `log`, if given.
    """
    with open(log or os.devnull, "w") as file:
        output = file if log else None
        process = subprocess.Popen(
            command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=environment(), start_new_session=apart
        )
        try:
            code = process.wait(max(seconds, 0))
        except subprocess.TimeoutExpired:
            _stop(process, grace, apart)
            return CUT_OFF
        except KeyboardInterrupt:
            _stop(process, grace, apart)
            raise
    return f"exit code {code}" if code else ""


def _stop(process: subprocess.Popen, grace: float, apart: bool) -> None:
    """Interrupts a process; kills it if it has not ended after `grace` seconds, with its group if it has one of its own."""
    process.send_signal(signal.SIGINT)
    end = time.monotonic() + grace
    while process.poll() is None and (left := end - time.monotonic()) > 0:
        with suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
            process.wait(left)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL) if apart else process.kill()
        process.wait()
