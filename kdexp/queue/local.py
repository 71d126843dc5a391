"""Workers on this machine, one process each, which end with the command that started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kdexp.processes import Process
from kdexp.queue.crew import last_words
from kdexp.queue.roster import WorkerState, read_state
from kdexp.store.run_state import WORKERS

ENDED = (0, 3)
"""Exit codes of a worker that found no more jobs to take."""
ASKED_TO_END = (130, 143, -signal.SIGTERM, -signal.SIGINT)
REFUSED = 2
MOST_CALLS = 3
"""How many idle workers in a row are called back to take what others have left, if none of them takes anything."""
PATIENCE = 60.0
"""Seconds that workers have to save their epoch before they are killed."""


@dataclass(frozen=True)
class LocalPlan:
    """How many workers there are, the GPUs that they take turns on (none: on the CPU), and the threads of each.

    An entry of `gpus` has several, with commas, where a job trains on several.
    """

    workers: int
    gpus: Sequence[str]
    per_gpu: int
    threads: int

    def environment(self, number: int) -> dict[str, str]:
        """The environment variables of worker `number`, counted from 0."""
        one_gpu = {"CUDA_VISIBLE_DEVICES": self.gpus[number // self.per_gpu]} if self.gpus else {}
        return {**os.environ, **one_gpu, "OMP_NUM_THREADS": str(self.threads)}

    def __str__(self) -> str:
        where = f"GPU {', '.join(self.gpus[: -(-self.workers // self.per_gpu)])}" if self.gpus else "this machine's cores"
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return f"{self.workers} workers on {where}, {threads} each" if self.workers > 1 else f"1 worker on {where}, {threads}"


class LocalCrew:
    """One slot per worker; a worker that dies is replaced, one that refuses its jobs is not."""

    detaches = ""

    def __init__(self, folder: Path, plan: LocalPlan):
        self._folder, self._plan = folder, plan
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._open = set(range(plan.workers))
        """Slots whose worker is to be started."""
        self._idle: set[int] = set()
        """Slots whose worker found nothing to take."""
        self._calls = 0
        """How many of these were called back since a worker last took a job."""

    def tick(self, left: int, live: Sequence[WorkerState]) -> list[str]:
        """Looks after every worker: says which died, and starts those that are missing."""
        said = [sentence for slot, process in list(self._running.items()) if (sentence := self._look_after(slot, process))]
        if left and not live and not self._running and self._may_call:  # others had taken what is left, and died
            self._open.add(self._idle.pop())
            self._calls += 1
        while self._open and len(self._running) < left:
            slot = min(self._open)
            self._open.discard(slot)
            self._running[slot] = self._start(slot)
        return said

    @property
    def over(self) -> bool:
        """Whether no worker runs, and none would find anything to do."""
        return not self._running and not self._open and not self._may_call

    @property
    def _may_call(self) -> bool:
        """Whether an idle worker may be called back; no longer if several found nothing, such as on a full disk."""
        return bool(self._idle) and self._calls < MOST_CALLS

    def stop(self) -> None:
        """Ends all workers as Ctrl-C does; they save the last finished epoch."""
        for process in self._running.values():
            with suppress(OSError):
                process.terminate()
        self._wait(PATIENCE)

    def leave(self) -> None:
        """Lets the workers end, which have nothing to do any more."""
        self._wait(PATIENCE)

    def _wait(self, seconds: float) -> None:
        """Waits for all workers; after these seconds, or Ctrl-C, kills those that are left."""
        end, patient = time.monotonic() + seconds, True
        for slot, process in list(self._running.items()):
            try:
                process.wait(max(0.0, end - time.monotonic()) if patient else 0.0)
            except (subprocess.TimeoutExpired, KeyboardInterrupt):
                patient = False
                process.kill()
                process.wait()
            self._empty(slot)

    def _start(self, slot: int) -> subprocess.Popen[bytes]:
        plan = self._plan
        sharing = ["--workers", str(plan.workers), "--per-gpu", str(plan.per_gpu), "--with-parent"]
        with self._output(slot).open("wb") as output:
            return subprocess.Popen(
                [*python(), "-m", "kdexp.commands.work", str(self._folder), *sharing],
                env=plan.environment(slot),
                stdin=subprocess.PIPE,  # never written to: it ends with this process
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is this process's, which passes it on once
            )

    def _output(self, slot: int) -> Path:
        (self._folder / WORKERS).mkdir(exist_ok=True)
        return self._folder / WORKERS / f"local-{slot + 1}.txt"

    def _look_after(self, slot: int, process: subprocess.Popen[bytes]) -> str:
        """Empties the slot of a worker that has ended; returns a sentence if it died."""
        code = process.poll()
        if code is None:
            return ""
        self._empty(slot)
        worked = self._has_worked(process.pid)
        if worked:
            self._calls = 0
        if code in ENDED:
            self._idle.add(slot)
        if code in (*ENDED, *ASKED_TO_END, REFUSED):
            return ""
        how = f"was killed by {_signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
        who = Process.this()._replace(number=process.pid)
        if not worked:
            last = last_words(self._output(slot))
            return f"worker {slot + 1} ({who}) {how} before it took a job; {self._output(slot)} ends with: {last or 'nothing'}"
        self._open.add(slot)
        return f"worker {slot + 1} ({who}) {how}; others go on with its job"

    def _empty(self, slot: int) -> None:
        """Takes the ended process out of a slot."""
        pipe = self._running.pop(slot).stdin
        if pipe is not None:
            with suppress(OSError):
                pipe.close()

    def _has_worked(self, number: int) -> bool:
        """Whether the worker with that process number has taken a job: then it is worth another try."""
        files = (self._folder / WORKERS).glob(f"{Process.this().host}-{number}-*.json")
        return any(state.title for state in map(read_state, files) if state)


def _signal_name(number: int) -> str:
    with suppress(ValueError):  # real-time signals have no names
        return signal.Signals(number).name
    return f"signal {number}"


def python() -> list[str]:
    """The Python that runs this process, which finds modules in the working folder only if this process does."""
    here = sys.path[:1] in ([""], [os.getcwd()])  # noqa: PTH109
    return [sys.executable] if here else [sys.executable, "-P"]
