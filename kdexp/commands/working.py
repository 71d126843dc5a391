"""One worker of a sweep or a search: composes, checks and runs the jobs that it takes, and says what it is doing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from rich.console import Console

from kdexp.commands.command import PlannedJob
from kdexp.commands.multirun import jobs_of, run_job, session_of
from kdexp.commands.process import SOME_FAILED
from kdexp.commands.report import print_report
from kdexp.commands.working_search import run_trials
from kdexp.configuration.compose import Composer
from kdexp.errors import NotHere, Unwritable
from kdexp.experiment.journal import Journal
from kdexp.queue.job_list import JobList
from kdexp.queue.queue import Queue
from kdexp.queue.roster import Registration
from kdexp.store.locks import holder, take_turns
from kdexp.store.run_state import ALIVE, FAILED, state_of
from kdexp.text.characters import one_line
from kdexp.text.numbers import count
from kdexp.training.learner import Learner
from kdexp.validation.jobs import JobCheck


class WorkerJournal(Journal):
    """A quiet journal whose headlines and current training others can read, too."""

    def __init__(self, worker: Registration, console: Console | None = None):
        super().__init__(console, quiet=True)
        self._worker = worker
        self._last: tuple[str, int, float] = ("", 0, 0.0)

    def headline(self, text: Any) -> None:
        """Prints a text, and leaves it where others can read it."""
        super().headline(text)
        if isinstance(text, str):
            self._worker.tell(one_line(text))

    def aside(self, line: str) -> None:
        """Prints a line that others have no use for."""
        super().headline(line)

    def result(self, text: str, number: int) -> None:
        """Prints how a job or a trial ended."""
        super().headline(text)
        self._worker.tell(one_line(text), number)

    def say(self, text: Any) -> None:
        """Logs a sentence; others see what this worker waits for."""
        super().say(text)
        if isinstance(text, str) and text.startswith("waiting for "):
            self._worker.note(waiting=one_line(text))

    def followed(self, learners: Sequence[Learner], epochs: int) -> None:
        """Notes the epoch, and how long one takes."""
        names, done, now = ", ".join(learner.name for learner in learners), len(learners[0].history), time.monotonic()
        if names != self._last[0] or done < self._last[1]:
            self._last = (names, done, now)
        _, first, since = self._last
        seconds = (now - since) / (done - first) if done > first else 0.0
        soon = done == first
        trained = self._worker.state.trained + (not soon)
        self._worker.note(soon=soon, learners=names, epoch=done, epochs=epochs, seconds=seconds, trained=trained, waiting="")


def work(listed: JobList, worker: Registration, console: Console | None = None) -> int:
    """Takes jobs until none is left, and prints the table if all are over; returns the exit code.

    Raises `NotHere`, `SweepLost` and `OSError`.
    """
    journal, session = WorkerJournal(worker, console), session_of(listed)
    composer = Composer(*listed.source)
    checks = JobCheck(composer, [])
    failed = 0
    with ExitStack() as until:
        until.callback(session.close)
        if listed.search and not listed.jobs:
            listed = run_trials(listed, worker, composer, journal, session)
            if not listed.jobs:
                return SOME_FAILED
        queue = until.enter_context(Queue(listed))
        for job in jobs_of(queue, wait=False):
            with worker.doing(job.number, listed.title(job)):
                config, problems = checks.check(job.overrides)
                if problems:
                    raise NotHere(f"job {listed.title(job)}: {'; '.join(map(str, problems))}")
                planned, folder = PlannedJob(job.number, job.overrides, config), listed.folder_of(job)
                journal.result(f"{listed.title(job)}: {run_job(planned, folder, journal, session)}", job.number)
            failed += state_of(folder) == FAILED
        left = len(queue.left)
    if left:
        journal.aside(f"nothing is left to take: others are working on {count(left, 'job')}")
        return SOME_FAILED if failed else 0
    return _end(listed, journal)


def _end(listed: JobList, journal: WorkerJournal) -> int:
    """Prints the table, unless a command watches this sweep and will; returns the exit code."""
    failed = any(state_of(listed.folder_of(job)) == FAILED for job in listed.jobs)
    if holder(listed.folder / ALIVE):
        return SOME_FAILED if failed else 0
    with ExitStack() as until:
        take_turns(listed.folder / "table.lock", until)
        try:
            return print_report([listed.folder], listed.folder, journal.console)
        except Unwritable as error:
            journal.warn(str(error))
            return SOME_FAILED
