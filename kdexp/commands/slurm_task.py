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
from kdexp.text.characters import one_line

TOO_SHORT = (
    "SLURM task {task} reached its time limit before the end of an epoch, for the second time, and is not queued again; "
    "hydra.launcher.minutes=MINUTES raises the limit"
)

NOT_AGAIN = "SLURM task {task} has saved its last epoch and is not queued again ({why}); the same command starts another worker"


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
        print("the last finished epoch is saved", file=sys.stderr, flush=True)
        if why := _why_not_again(stop, Path(folder)):
            Registration(Path(folder), started_as()).tell(why)
        return code_of(stop)


def _why_not_again(stop: KeyboardInterrupt, folder: Path) -> str:
    """Queues this task again, unless it was cancelled; returns a sentence on why that is impossible, or an empty string."""
    if isinstance(stop, TimeIsUp) and _trains_nothing(folder):
        return TOO_SHORT.format(task=started_as())
    try:
        if not isinstance(stop, TimeIsUp) and not _is_preempted():
            return ""
        print("this task is queued again", file=sys.stderr, flush=True)  # scontrol ends this process
        subprocess.run(["scontrol", "requeue", started_as()], capture_output=True, check=True, encoding="utf-8")
    except (OSError, subprocess.CalledProcessError) as error:
        words = (error.stderr or "").strip() if isinstance(error, subprocess.CalledProcessError) else ""
        return NOT_AGAIN.format(task=started_as(), why=one_line(words or str(error)))
    return ""


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
