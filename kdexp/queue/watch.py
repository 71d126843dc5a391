"""Watches over a sweep from the command that started it until all its jobs are over, or nobody works on them."""

from __future__ import annotations

import time
from collections.abc import Callable

from kdexp.errors import SweepLost
from kdexp.queue.crew import Crew
from kdexp.queue.job_list import JOBS, JobList, ListedJob
from kdexp.queue.roster import Tail, live_workers
from kdexp.queue.screen import Progress, SweepScreen
from kdexp.store.run_state import FAILED, FINISHED, state_of

POLL = 0.2
"""Seconds between two looks at the workers."""
CHECK = 10.0
"""Seconds between two looks at the folders of all jobs that no worker has reported."""


class Watch:
    """The jobs of a sweep as this process knows them: most from the workers' lines, all from their folders now and then."""

    def __init__(self, listed: JobList):
        self._listed = listed
        self._left = dict(enumerate(listed.jobs))
        self._tail = Tail(listed.folder)
        self._failed = 0
        self._said: set[str] = set()
        self.check()

    @property
    def left(self) -> int:
        """How many jobs are not over."""
        return len(self._left)

    def check(self) -> None:
        """Looks at the folder of every job that is left."""
        for job in list(self._left.values()):
            self._look_at(job)

    def follow(self, crew: Callable[[], Crew], screen: SweepScreen) -> None:
        """Shows what happens until no job is left, or no worker; raises `SweepLost` if the folder disappears."""
        checked = time.monotonic()
        while self._left:
            if not (self._listed.folder / JOBS).is_file():
                raise SweepLost(f"{self._listed.folder} has disappeared, and with it the list of jobs")
            live = live_workers(self._listed.folder)
            current = crew()
            for sentence in current.tick(self.left, live):
                screen.line(sentence)
            self._read_lines(screen)
            over = current.over and not live
            if over or time.monotonic() - checked > CHECK:
                checked = time.monotonic()
                self.check()
            screen.show(Progress(len(self._listed.jobs), len(self._listed.jobs) - self.left, self._failed, live))
            if over:
                return
            time.sleep(POLL)

    def _read_lines(self, screen: SweepScreen) -> None:
        """Prints what workers said: how jobs ended, and everything else that none said before."""
        for line in self._tail.lines():
            if line.number is not None:
                screen.line(line.text)
                if line.number in self._left:
                    self._look_at(self._left[line.number])
            elif line.text not in self._said:
                self._said.add(line.text)
                screen.line(line.text)

    def _look_at(self, job: ListedJob) -> None:
        state = state_of(self._listed.folder_of(job))
        if state in (FINISHED, FAILED):
            del self._left[job.number]
            self._failed += state == FAILED
