"""Runs the jobs of a multirun in this process; they share data and teacher outputs, and each prints one line."""

from __future__ import annotations

import shlex
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from kdexp.commands.command import PlannedJob
from kdexp.commands.run import claim_folder, describe_run, report, running, writing_to
from kdexp.errors import DataUnavailable, Unwritable, first_line
from kdexp.experiment.experiment import Experiment
from kdexp.experiment.journal import Journal
from kdexp.experiment.lockstep import train_together
from kdexp.experiment.lookahead import layers_read
from kdexp.experiment.obtain import obtain
from kdexp.experiment.session import Session
from kdexp.files import at_home, write_whole
from kdexp.queue.job_list import SHIPPED, JobList, ListedJob, Source, write_jobs
from kdexp.queue.queue import Queue
from kdexp.queue.trained import TrainedHere
from kdexp.report.rows import Row
from kdexp.store.learners import LearnerStore
from kdexp.store.locks import hold
from kdexp.store.run_state import ALIVE, FAILED, INTERRUPTED, state_of, write_state
from kdexp.text.numbers import percent, signed

POLL = 0.5
"""Seconds between two looks at jobs that other processes have taken."""


@dataclass(frozen=True)
class Lockstep:
    """Trains compatible jobs together, at most `most` learners in one loop (None: as many as memory allows)."""

    most: int | None


def run_jobs(
    jobs: Sequence[PlannedJob],
    command: Sequence[str],
    lockstep: Lockstep | None,
    console: Console | None = None,
    source: Source = SHIPPED,
) -> Path:
    """Runs validated jobs; a failing job does not stop the others. Returns the sweep's folder.

    Raises `Unwritable` before anything is trained. Where `kdexp-work` takes jobs of the folder too, waits for these.
    """
    journal = Journal(console, quiet=True)
    listed = claim_sweep(jobs, command, source)
    folder, session = listed.folder, session_of(listed)
    journal.headline(f"sweep folder: {folder}, {len(jobs)} jobs")
    alive = ExitStack()
    alive.callback(session.close)
    try:
        with suppress(OSError):
            hold(folder / ALIVE, alive)
        if lockstep is not None:
            _train_together(jobs, folder, journal, session, lockstep.most)
        by_first = {group[0].number: group for group in _by_data(jobs)}
        for taken in jobs_of(alive.enter_context(Queue(listed)), wait=True):
            job = jobs[taken.number]
            _claim(by_first.get(job.number, ()), folder, journal, session)
            journal.headline(f"{listed.title(taken)}: {run_job(job, listed.folder_of(taken), journal, session)}")
    except KeyboardInterrupt:
        journal.headline(f"kdexp-report {shlex.quote(str(folder))} shows the finished part of this sweep")
        raise
    finally:
        alive.close()
    return folder


def jobs_of(queue: Queue, *, wait: bool) -> Iterator[ListedJob]:
    """The jobs that this process takes, each until the next; if `wait`, until all that others have taken are over."""
    idle = time.monotonic()
    while (job := queue.take()) or (queue.left and (wait or time.monotonic() - idle < queue.patience)):
        if job is None:
            time.sleep(POLL)
        else:
            yield job
            queue.end(job)
            idle = time.monotonic()


def _claim(jobs: Sequence[PlannedJob], folder: Path, journal: Journal, session: Session) -> None:
    """Claims all learners that the jobs on one data set need, before the first of them runs; errors are left to the jobs."""
    with suppress(Exception):
        for job in jobs:
            experiment = Experiment(job.config, journal, session)
            experiment.claim((experiment.spec(role).key for role in experiment.needed), folder)


def _train_together(jobs: Sequence[PlannedJob], folder: Path, journal: Journal, session: Session, most: int | None) -> None:
    """Trains the learners of compatible jobs in lockstep; after an error the jobs go on one by one."""
    journal.open_log(folder / "log.txt")
    try:
        for group in _by_data(jobs):
            train_together([*filter(None, (_ready(job, journal, session) for job in group))], most)
    except Exception as error:  # whatever it is, the jobs can run without lockstep
        journal.note(traceback.format_exc())
        journal.warn(f"lockstep stopped ({type(error).__name__}: {first_line(error)}); the jobs now run one by one")
    finally:
        journal.close_log()


def _by_data(jobs: Sequence[PlannedJob]) -> Iterable[Sequence[PlannedJob]]:
    """The jobs grouped by data set: one data set at a time is in memory, and jobs on different data never train together."""
    groups: dict[str, list[PlannedJob]] = {}
    for job in jobs:
        groups.setdefault(str(job.config["dataset"]), []).append(job)
    return groups.values()


def claim_sweep(
    jobs: Sequence[PlannedJob], command: Sequence[str], source: Source = SHIPPED, *, by_workers: bool = False
) -> JobList:
    """Makes the sweep's folder and writes the list of its jobs; raises `Unwritable`."""
    configs = [job.config for job in jobs]
    if by_workers:
        make_stores(configs)
    with writing_to(configs[0]):
        folder = claim_folder(at_home(str(configs[0]["output_dir"])) / "sweeps", configs[0])
        return write_jobs(folder, listing_of(jobs), command, configs, layers_read(configs), source, by_workers=by_workers)


def session_of(listed: JobList) -> Session:
    """What the jobs of a sweep or a search share in a process; `force=true` trains each learner once for all processes."""
    session = Session(layers=dict(listed.layers))
    if listed.forced:
        session.trained = TrainedHere(listed.folder)
    return session


def make_stores(configs: Iterable[Mapping[str, Any]]) -> None:
    """Makes the folders of stores: a worker that does not find one has another disk. Raises `Unwritable`."""
    for store in dict.fromkeys(str(config["store"]) for config in configs):
        LearnerStore(store).require_writable()


def listing_of(jobs: Iterable[PlannedJob]) -> list[ListedJob]:
    """The jobs as a list of jobs has them."""
    return [ListedJob(job.number, tuple(job.overrides), job.folder) for job in jobs]


def _ready(job: PlannedJob, journal: Journal, session: Session) -> Experiment | None:
    """The job's experiment, or None if it can't start; the job will report the reason."""
    try:
        experiment = Experiment(job.config, journal, session, job=f"#{job.number}")
        experiment.make_ready()
    except (DataUnavailable, Unwritable, OSError):
        return None
    return experiment


def run_job(job: PlannedJob, folder: Path, journal: Journal, session: Session, *, trial: bool = False) -> str:
    """Runs one job in its folder; returns its result in a few words. That of a search's `trial` tells no test accuracy."""
    try:
        with writing_to(job.config):
            folder.mkdir()
            experiment = Experiment(job.config, journal, session)
            describe_run(folder, job.config, job.overrides, experiment)
        experiment.make_ready()
        with running(experiment, folder):
            outcome = report(folder, obtain(experiment), experiment, journal, brief=True, trial=trial)
    except KeyboardInterrupt:
        if not state_of(folder):  # while the data were read: this is no death, of which a job may have few
            write_state(folder, INTERRUPTED)
        raise
    except (DataUnavailable, Unwritable, OSError) as error:
        write_state(folder, FAILED, str(error))
        return f"failed: {error}"
    except Exception as error:  # whatever it is, the other jobs go on
        reason = f"{type(error).__name__}: {first_line(error)}; {folder}/traceback.txt has more"
        with suppress(OSError):
            write_whole(folder / "traceback.txt", traceback.format_exc())
        write_state(folder, FAILED, reason)
        return f"failed: {reason}"
    return f"failed: {outcome.reason}" if outcome.reason else ", ".join(map(_result, outcome.rows))


def _result(row: Row) -> str:
    difference = f" ({signed(row.difference)})" if row.difference is not None else ""
    return f"{row.role} {percent(row.test_top1)}{difference}"
