"""The workers of a sweep: what each is doing, and what it said, in files of its own that the others only read."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple
from uuid import uuid4

from kdexp.files import write_whole
from kdexp.processes import Process
from kdexp.store.locks import hold, holder
from kdexp.store.run_state import WORKERS

INTERVAL = 0.5
"""Seconds between two reports of one training, at least."""


@dataclass(frozen=True)
class WorkerState:
    """What a worker is doing: the number of its job or trial (None between them), and the epoch of the learners in training."""

    name: str
    process: str = ""
    starter: str = ""
    """What the program that started it calls it, such as a number in a SLURM array; empty if a user started it."""
    job: int | None = None
    title: str = ""
    """Of the job."""
    learners: str = ""
    epoch: int = 0
    epochs: int = 0
    seconds: float = 0.0
    """Of an epoch, on average."""
    trained: int = 0
    """How many epochs it has trained, of any learners."""
    waiting: str = ""
    """What it waits for, if it does."""
    jobs: int = 0
    """How many jobs, or trials before them, it has ended."""
    busy: float = 0.0
    """Seconds in these."""


class Line(NamedTuple):
    """A line that a worker printed; about a job that has ended if it has the number of one."""

    worker: str
    number: int | None
    text: str


class Registration:
    """This process as a worker of a sweep: keeps its state and its lines where others can read them."""

    def __init__(self, folder: Path, starter: str = ""):
        process = Process.this()
        self._folder = folder / WORKERS
        self.state = WorkerState(f"{process.host}-{process.number}-{uuid4().hex[:6]}", str(process), starter)
        self._until = ExitStack()
        self._written = 0.0

    def __enter__(self) -> Registration:
        self._folder.mkdir(exist_ok=True)
        with suppress(OSError):
            hold(self._folder / f"{self.state.name}.lock", self._until)
        self.note()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._until.close()

    def note(self, *, soon: bool = True, **changes: Any) -> None:
        """Changes the state and writes it, if that is due or should be `soon`; a full disk is no error."""
        self.state = replace(self.state, **changes)
        if soon or time.monotonic() - self._written > INTERVAL:
            self._written = time.monotonic()
            with suppress(OSError):
                write_whole(self._folder / f"{self.state.name}.json", json.dumps(asdict(self.state)))

    @contextmanager
    def doing(self, number: int, title: str) -> Iterator[None]:
        """Notes a job or a trial, and at its end how long it took; one that an error ends is no longer this worker's."""
        started = time.monotonic()
        self.note(job=number, title=title, learners="", epoch=0, epochs=0)
        try:
            yield
        except BaseException:
            self.note(job=None)
            raise
        busy = self.state.busy + time.monotonic() - started
        self.note(job=None, waiting="", jobs=self.state.jobs + 1, busy=busy)

    def tell(self, text: str, number: int | None = None) -> None:
        """Adds a line to those that others read."""
        line = json.dumps({"number": number, "text": text}) + "\n"
        with suppress(OSError), (self._folder / f"{self.state.name}.jsonl").open("a", encoding="utf-8") as file:
            file.write(line)


def own_state(folder: Path) -> WorkerState | None:
    """The last state of this process as a worker of a sweep; None if it has not registered."""
    own = [state for state in registered(folder) if state.process == str(Process.this())]
    return own[-1] if own else None


def registered(folder: Path) -> list[WorkerState]:
    """The last states of all workers that have ever registered for a sweep, the latest at the end."""
    files = sorted((folder / WORKERS).glob("*.json"), key=lambda path: path.stat().st_mtime)
    return [state for state in map(read_state, files) if state]


def live_workers(folder: Path) -> list[WorkerState]:
    """The registered workers of a sweep that run."""
    found = []
    for lock in sorted((folder / WORKERS).glob("*.lock")):
        with suppress(OSError):
            if holder(lock) and (state := read_state(lock.with_suffix(".json"))):
                found.append(state)
    return found


def read_state(path: Path) -> WorkerState | None:
    """The state in a worker's file, without what only a newer version knows; None if it can't be read."""
    with suppress(OSError, ValueError, TypeError, AttributeError):
        found = json.loads(path.read_text("utf-8"))
        return WorkerState(**{name: value for name, value in found.items() if name in WorkerState.__dataclass_fields__})
    return None


class Tail:
    """Reads what the workers of a sweep print from now on, as it comes."""

    def __init__(self, folder: Path):
        self._folder = folder / WORKERS
        self._read: dict[Path, int] = {path: path.stat().st_size for path in self._paths()}

    def _paths(self) -> Iterator[Path]:
        return self._folder.glob("*.jsonl")

    def lines(self) -> list[Line]:
        """The lines since the last call."""
        found: list[Line] = []
        for path in sorted(self._paths()):
            with suppress(OSError), path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                whole = file.read().rpartition(b"\n")[0]
                self._read[path] = self._read.get(path, 0) + (len(whole) + 1 if whole else 0)
                found += [line for text in whole.splitlines() if (line := _line(path.stem, text))]
        return found


def _line(worker: str, text: bytes) -> Line | None:
    try:
        content = json.loads(text)
        return Line(worker, content["number"], str(content["text"]))
    except (ValueError, TypeError, KeyError):
        return None


def started_as() -> str:
    """What SLURM calls this task; empty outside of SLURM."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID", ""), os.environ.get("SLURM_ARRAY_TASK_ID", "")
    return f"{array}_{task}" if array else os.environ.get("SLURM_JOB_ID", "")
