"""What a task of a SLURM array does: it works on a sweep, and queues itself again where SLURM ends it before the jobs do.

A preempted task that ends in its grace time would count as completed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

from kdexp.commands.process import Terminated, code_of, set_up
from kdexp.commands.work import start
from kdexp.queue.roster import Registration, own_state, started_as

TOO_SHORT = (
    "SLURM task {task} reached its time limit before the end of an epoch, for the second time, and is not queued again; "
    "hydra.launcher.minutes=MINUTES raises the limit"
)


class TimeIsUp(Terminated):
    """Raised on SIGUSR2, which SLURM sends some time before the limit."""


def take_jobs(folder: str) -> int:
    """Works on a sweep until no job is left, or SLURM asks the task to end; returns the exit code."""
    set_up()
    os.environ.setdefault("OMP_NUM_THREADS", os.environ.get("SLURM_CPUS_PER_TASK", "1"))
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGUSR2, _end)
    try:
        return start(Path(folder))
    except KeyboardInterrupt as stop:
        too_short = isinstance(stop, TimeIsUp) and _trains_nothing(Path(folder))
        again = not too_short and (isinstance(stop, TimeIsUp) or _is_preempted())
        print(f"the last finished epoch is saved{', and this task is queued again' if again else ''}", file=sys.stderr)
        if too_short:
            Registration(Path(folder), started_as()).tell(TOO_SHORT.format(task=started_as()))
        if again:  # ends this process
            subprocess.run(["scontrol", "requeue", started_as()], check=False)
        return code_of(stop)


def _trains_nothing(folder: Path) -> bool:
    """Whether this task was queued again before, and has once more had no time for a single epoch."""
    state = own_state(folder)
    idle = state is None or not (state.trained or state.jobs or state.waiting)
    return idle and os.environ.get("SLURM_RESTART_COUNT", "0") != "0"


def _is_preempted() -> bool:
    """Whether SIGTERM came with time to end in, as before preemption: a task that was cancelled runs no more."""
    shown = subprocess.run(
        ["squeue", "--noheader", "--job", started_as(), "--format", "%T"], capture_output=True, encoding="utf-8"
    )
    return shown.stdout.strip() == "RUNNING"


def _end(number: int, _frame: FrameType | None) -> None:
    """Ends the work once; a second signal must not interrupt the saving."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    raise TimeIsUp if number == signal.SIGUSR2 else Terminated
