"""Workers as tasks of SLURM arrays, which go on without the command that submitted them. Needs the extra `slurm`."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdexp.errors import InvalidArguments, Problem, first_line
from kdexp.files import write_whole
from kdexp.queue.crew import last_words
from kdexp.queue.job_list import absolute
from kdexp.queue.roster import WorkerState, registered
from kdexp.text.numbers import count

FOLDER, ARRAYS = "slurm", "arrays.json"
POLL = 5.0
"""Seconds between two questions to SLURM, which serves many users."""
NO_ANSWER = "squeue gives no answer: nothing is submitted until it says which workers of this sweep there are"
ENDING = "COMPLETING"
"""State of a task whose processes have ended or are ending; it may be queued again."""
LEFT = ("COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE")
"""States of tasks that SLURM still lists, but that run no more."""

Task = Callable[[str], int]


def missing_for_slurm() -> str:
    """What this machine lacks to submit to SLURM, or an empty string."""
    if shutil.which("sbatch") is None:
        return "this machine has no sbatch; use one that submits to SLURM, or hydra/launcher=local, or kdexp-work SWEEP"
    try:
        import submitit  # noqa: F401
    except ImportError:
        return 'needs submitit: pip install "kdexp[slurm]"'
    return ""


@dataclass(frozen=True)
class SlurmPlan:
    """How many workers are submitted, and the parameters of their array as submitit names them."""

    workers: int
    parameters: Mapping[str, Any]

    @classmethod
    def of(cls, node: Mapping[str, Any], jobs: int) -> SlurmPlan:
        """The plan for a launcher's settings and so many jobs."""
        same = ("partition", "account", "qos", "constraint", "gres", "cpus_per_task", "mem_gb", "setup")
        parameters = {name: node[name] for name in same if node[name]}
        more = {"requeue": True, **node["sbatch"]}
        timing = {"time": node["minutes"], "signal_delay_s": node["signal_seconds"]}
        return cls(min(node["workers"], jobs), {"job_name": "kdexp", **parameters, **timing, "additional_parameters": more})

    def __str__(self) -> str:
        return f"{count(self.workers, 'worker')} in SLURM, {self.parameters['time']} minutes each"


class SlurmCrew:
    """Submits the workers that are missing when it starts, and later those that died."""

    def __init__(self, folder: Path, plan: SlurmPlan, task: Task):
        self._folder, self._plan, self._task = folder, plan, task
        self._asked = 0.0
        self._queued: set[str] = set()
        """The tasks that wait, run or end."""
        self._done_with: set[str] = set()
        """Tasks that ended, and that nothing more is to be done about."""
        self._first, self._silent = True, False

    @property
    def arrays(self) -> list[str]:
        """The arrays submitted for this sweep, by their numbers."""
        with suppress(OSError, ValueError):
            return list(map(str, json.loads((self._folder / FOLDER / ARRAYS).read_text("utf-8"))))
        return []

    @property
    def detaches(self) -> str:
        """What an interrupted user reads: the workers go on."""
        names = " ".join(self.arrays)
        return f"the workers go on in SLURM; the same command comes back to them, and scancel {names} ends them"

    def tick(self, left: int, live: Sequence[WorkerState]) -> list[str]:
        """Asks SLURM for the tasks now and then; submits workers for those that are missing or died."""
        if not self._first and time.monotonic() - self._asked < POLL:
            return []
        self._asked = time.monotonic()
        before, listed = self._queued, self._tasks()
        if listed is None and self.arrays:
            silent, self._silent = self._silent, True
            return [NO_ANSWER] if self._first and not silent else []
        queued = set(listed or {})
        self._queued, said, missing = queued, [], 0
        known = self._registered()
        if self._first:
            queued -= {task for task, state in (listed or {}).items() if state == ENDING}
            self._done_with = set(known) - queued
            missing = min(self._plan.workers, left) - len(queued)
        else:
            for task in sorted((before | set(known)) - queued - self._done_with):
                self._done_with.add(task)
                if task not in known:
                    said.append(f"SLURM task {task} ended before it took a job; {self._reason(task)}")
                elif known[task].job is not None:
                    said.append(f"SLURM task {task} ({known[task].process}) died; another worker goes on with its job")
                    missing += 1
        if missing > 0:
            said.append(self._submit_or_say(missing))
        self._first = False
        return said

    def _submit_or_say(self, number: int) -> str:
        """Submits so many workers; returns a sentence, also on a refusal, which is an `InvalidArguments` only at first."""
        try:
            return f"submitted {self.submit(number)}"
        except InvalidArguments as refusal:
            if self._first:
                raise
            return f"no other worker takes the place of {count(number, 'worker')} that died: {refusal.problems[0]}"

    def submit(self, number: int) -> str:
        """Submits so many workers; returns words for them. Raises `InvalidArguments` if SLURM refuses them."""
        import submitit

        try:
            folder = absolute(self._folder)
            executor = submitit.SlurmExecutor(Path(folder) / FOLDER)
            executor.update_parameters(**self._plan.parameters)
            submitted = executor.map_array(self._task, [folder] * number)
        except Exception as error:  # submitit raises errors of many kinds, with sbatch's own words
            raise InvalidArguments([Problem("hydra/launcher", f"=slurm: {_words_of(error)}")]) from error
        array = submitted[0].job_id.partition("_")[0]
        write_whole(self._folder / FOLDER / ARRAYS, json.dumps([*self.arrays, array]))
        self._queued |= {job.job_id for job in submitted}
        return f"array {array}, {count(number, 'worker')}"

    @property
    def over(self) -> bool:
        """Whether no task waits or runs."""
        return not self._first and not self._queued

    def stop(self) -> None:
        """Leaves the workers to SLURM."""

    def leave(self) -> None:
        """Leaves the workers, which end by themselves."""

    def _tasks(self) -> dict[str, str] | None:
        """The states of the tasks of this sweep that wait, run or end; None if SLURM gives no answer."""
        arrays = set(self.arrays)
        try:
            command = ["squeue", "--noheader", "--array", "--me", "--format", "%i %T"]
            told = subprocess.run(command, capture_output=True, encoding="utf-8", check=True, timeout=60)
            lines = told.stdout.splitlines()
        except (OSError, subprocess.SubprocessError):
            return None
        listed = dict(line.split() for line in lines if len(line.split()) == 2)
        return {task: state for task, state in listed.items() if task.partition("_")[0] in arrays and state not in LEFT}

    def _registered(self) -> dict[str, WorkerState]:
        """The last registration of each task that has one."""
        arrays = self.arrays
        return {state.starter: state for state in registered(self._folder) if state.starter.partition("_")[0] in arrays}

    def _reason(self, task: str) -> str:
        """Where a task's log is, and how it ends."""
        for log in (self._folder / FOLDER).glob(f"{task}_*.err"):
            if last := last_words(log):
                return f"{log} ends with: {last}"
        return f"squeue --job {task} or its log in {self._folder / FOLDER} may say why"


def _words_of(error: Exception) -> str:
    """What sbatch says in an error of submitit."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines if line.startswith("sbatch: error:")), first_line(error))
