"""Watches over a sweep or a search from the command that started it until nothing is left to do, or nobody does it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from kdexp.errors import SweepLost
from kdexp.queue.crew import Crew
from kdexp.queue.job_list import JobList
from kdexp.queue.roster import Tail, live_workers
from kdexp.queue.screen import Progress, SweepScreen
from kdexp.store.run_files import JOBS
from kdexp.store.run_state import FAILED, FINISHED, state_of

POLL = 0.2
"""Seconds between two looks at the workers."""
CHECK = 10.0
"""Seconds between two looks at the folders of all jobs that no worker has reported."""


class Work(Protocol):
    """What workers do, as the process that watches them knows it."""

    @property
    def noun(self) -> str:
        """What is counted: jobs or trials."""

    @property
    def total(self) -> int:
        """How many there are."""

    @property
    def over(self) -> int:
        """How many of them are over."""

    @property
    def failed(self) -> int:
        """How many of those failed."""

    @property
    def left(self) -> int:
        """How many workers would find something to do; the work is over when this is 0."""

    def __str__(self) -> str:
        """Where it is done, and how much is over."""

    def check(self) -> None:
        """Looks at everything that is left."""

    def look_at(self, number: int) -> None:
        """Looks at what a worker has said to be over."""


class SweepWork:
    """The jobs of a sweep: most are looked at when a worker says that they are over, all of them now and then."""

    noun = "job"

    def __init__(self, listed: JobList):
        self._listed = listed
        self._left = dict(enumerate(listed.jobs))
        self.total, self.failed = len(listed.jobs), 0

    def __str__(self) -> str:
        over = f", {self.over} of them over" if self.over else ""
        return f"sweep folder: {self._listed.folder}, {self.total} jobs{over}"

    @property
    def over(self) -> int:
        """How many jobs are over."""
        return self.total - self.left

    @property
    def left(self) -> int:
        """How many jobs are not over."""
        return len(self._left)

    def check(self) -> None:
        """Looks at the folder of every job that is left."""
        for number in list(self._left):
            self.look_at(number)

    def look_at(self, number: int) -> None:
        """Looks at the folder of a job."""
        if number not in self._left:
            return
        state = state_of(self._listed.folder_of(self._left[number]))
        if state in (FINISHED, FAILED):
            del self._left[number]
            self.failed += state == FAILED


class Watch:
    """Follows the workers of a sweep or a search, whose `work` is counted."""

    def __init__(self, folder: Path, work: Work):
        self.work = work
        self._folder = folder
        self._tail = Tail(folder)
        self._said: set[str] = set()
        work.check()

    def follow(self, crew: Callable[[], Crew], screen: SweepScreen) -> None:
        """Shows what happens until nothing is left, or no worker; raises `SweepLost` if the folder disappears."""
        checked, work = time.monotonic(), self.work
        while work.left:
            if not (self._folder / JOBS).is_file():
                raise SweepLost(f"{self._folder} has disappeared, and with it the list of jobs")
            live = live_workers(self._folder)
            current = crew()
            for sentence in current.tick(work.left, live):
                screen.line(sentence)
            self._read_lines(screen)
            over = current.over and not live
            if over or time.monotonic() - checked > CHECK:
                checked = time.monotonic()
                work.check()
            screen.show(Progress(work.total, work.over, work.failed, live, work.noun))
            if over:
                return
            time.sleep(POLL)

    def _read_lines(self, screen: SweepScreen) -> None:
        """Prints what workers said: how jobs ended, and everything else that none said before."""
        for line in self._tail.lines():
            if line.number is not None:
                screen.line(line.text)
                self.work.look_at(line.number)
            elif line.text not in self._said:
                self._said.add(line.text)
                screen.line(line.text)
