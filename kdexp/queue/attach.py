"""Finds the unfinished sweep that the same command started, so that it goes on instead of starting again."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from kdexp.errors import BadFile
from kdexp.queue.job_list import JobList, Source, absolute, read_jobs
from kdexp.store.run_state import FAILED, FINISHED, state_of

ENDED = "ended"
"""A file that says that a command has shown the table of a sweep, so that the same command starts a new one."""


def find_unfinished(sweeps: Path, digest: str, jobs: Iterable[Iterable[str]], source: Source) -> JobList | None:
    """The newest sweep of workers with these jobs and this source whose table no command has shown; None if there is none.

    `digest` is the part of its folder's name that the first job decides.
    """
    wanted, cwd = [_decisive(job) for job in jobs], str(Path.cwd())
    source = source._replace(config_dir=absolute(source.config_dir) if source.config_dir else None)
    for folder in sorted(sweeps.glob(f"*_{digest}*"), reverse=True):
        try:
            listed = read_jobs(folder)
        except BadFile:
            continue
        same = listed.by_workers and not listed.search and (listed.cwd, listed.source) == (cwd, source)
        if same and [_decisive(job.overrides) for job in listed.jobs] == wanted and _is_unfinished(listed):
            return listed
    return None


def _decisive(overrides: Iterable[str]) -> list[str]:
    """The overrides that decide a job; the launcher does not."""
    return [text for text in overrides if not text.startswith(("hydra/", "hydra."))]


def _is_unfinished(listed: JobList) -> bool:
    return not (listed.folder / ENDED).exists() or left_in(listed) > 0


def left_in(listed: JobList) -> int:
    """How many jobs are neither finished nor failed."""
    return sum(state_of(listed.folder_of(job)) not in (FINISHED, FAILED) for job in listed.jobs)


def mark_ended(folder: Path) -> None:
    """Notes that a command has shown the table of a sweep."""
    with suppress(OSError):
        (folder / ENDED).touch()
