"""Shows the workers of a sweep: a live table on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from kdexp.queue.roster import WorkerState
from kdexp.text.characters import one_line
from kdexp.text.numbers import MISSING, count, duration

EVERY = 30.0
"""Seconds between two lines on the progress, where there is no terminal."""


@dataclass(frozen=True)
class Progress:
    """How far a sweep is: its jobs, or a search's trials, those that are over, those that failed, and the running workers."""

    jobs: int
    over: int
    failed: int
    workers: Sequence[WorkerState]
    noun: str = "job"

    @property
    def seconds_left(self) -> float | None:
        """Until all jobs are over, at the pace of those that are; None if none is."""
        ended, busy = sum(worker.jobs for worker in self.workers), sum(worker.busy for worker in self.workers)
        return busy / ended * (self.jobs - self.over) / len(self.workers) if ended else None

    def __str__(self) -> str:
        failed = f", {self.failed} failed" if self.failed else ""
        left = f", about {duration(self.seconds_left)} left" if self.seconds_left is not None and self.over < self.jobs else ""
        return f"{self.over:,} of {count(self.jobs, self.noun)} over{failed}; {count(len(self.workers), 'worker')}{left}"


def epochs_left(worker: WorkerState) -> float | None:
    """Seconds until a worker's current training ends; None if that is unknown."""
    return worker.seconds * (worker.epochs - worker.epoch) if worker.seconds and worker.epochs else None


class SweepScreen:
    """Prints lines, and keeps the progress below them on a terminal."""

    def __init__(self, console: Console):
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._shown = time.monotonic()

    def __enter__(self) -> SweepScreen:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live:
            self._live.stop()

    def line(self, text: str) -> None:
        """Prints a line above the progress."""
        self._console.print(one_line(text), markup=False, soft_wrap=True)

    def show(self, progress: Progress) -> None:
        """Draws the progress again."""
        if self._live:
            self._live.update(drawn(progress), refresh=True)
        elif time.monotonic() - self._shown > EVERY:
            self._shown = time.monotonic()
            self.line(str(progress))


def drawn(progress: Progress) -> RenderableType:
    """The table of workers and the bar of all jobs."""
    table = Table("worker", "job", "training", "epoch", "left", box=None, pad_edge=False)
    for worker in progress.workers:
        job = worker.title if worker.job is not None else "between jobs"
        doing = worker.waiting or worker.learners or MISSING
        epoch = f"{worker.epoch:,}/{worker.epochs:,}" if worker.epochs else MISSING
        cells = (worker.name.rpartition("-")[0], job, doing, epoch, duration(epochs_left(worker)))
        table.add_row(*(Text(one_line(cell), overflow="ellipsis", no_wrap=True) for cell in cells))
    total = Table.grid(padding=(0, 1))
    total.add_row(ProgressBar(total=progress.jobs, completed=progress.over, width=24), Text(str(progress)))
    return Group(table, total)
