"""Sweeps and searches from the command line: their jobs are run, here or by workers, and their table is printed."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from kdexp.commands import multirun, report
from kdexp.commands.by_workers import Detached, run_by_workers
from kdexp.commands.command import Command
from kdexp.commands.process import SOME_FAILED
from kdexp.commands.refusal import refuse
from kdexp.commands.search import conclude, run_search
from kdexp.commands.search_trials import SearchStopped
from kdexp.configuration.compose import Composer
from kdexp.configuration.hydra_settings import BY_WORKERS
from kdexp.errors import BadFile, InvalidArguments, Problem, Unwritable
from kdexp.queue.attach import mark_ended
from kdexp.queue.job_list import Source
from kdexp.store.size import size_remark
from kdexp.text.console import print_error


def run_all(command: Command, source: Source) -> int:
    """Runs the jobs of a multirun and prints their table; returns the exit code."""
    if command.launcher in BY_WORKERS:
        return _leave_to_workers(command, source)
    lockstep = multirun.Lockstep(command.hydra.launcher.max_learners) if command.launcher == "lockstep" else None
    try:
        folder = multirun.run_jobs(command.jobs, sys.argv[1:], lockstep, source=source)
    except Unwritable as error:
        return refuse([Problem("", str(error))])
    except OSError as error:
        return _stopped(error)
    return _end_with_table(folder, stores_of(command))


def _stopped(error: Exception) -> int:
    """Says what ended a sweep before its table; returns the exit code."""
    print_error("kdexp", f"{error}; every finished learner is in the store")
    return SOME_FAILED


def _leave_to_workers(command: Command, source: Source) -> int:
    """Starts workers for the jobs of a multirun or a search and prints their table; returns the exit code.

    Raises `SearchStopped`.
    """
    try:
        folder = run_by_workers(command, sys.argv[1:], source)
    except Detached as stop:
        return stop.code
    except InvalidArguments as error:
        return refuse(error.problems)
    except Unwritable as error:
        return refuse([Problem("", str(error))])
    except (OSError, BadFile) as error:
        return _stopped(error)
    code = _end_with_table(folder, stores_of(command))
    if command.search is None:
        mark_ended(folder)
    else:
        with suppress(OSError, BadFile):
            conclude(folder)
    return code


def stores_of(command: Command) -> Iterable[str]:
    """The stores of a multirun's or a search's jobs."""
    return (str(config["store"]) for config in command.configs)


def _end_with_table(folder: Path, stores: Iterable[str]) -> int:
    """Prints the table of a sweep whose jobs have ended; returns the exit code."""
    try:
        code = report.print_report([folder], folder)
        for told in filter(None, map(size_remark, dict.fromkeys(stores))):
            print(told)
        return code
    except Unwritable as error:
        elsewhere = f"kdexp-report {shlex.quote(str(folder))} --output FOLDER writes the table elsewhere"
        print_error("kdexp", f"{error}; every finished learner is in the store, and {elsewhere}")
        return SOME_FAILED


def run_search_plan(command: Command, composer: Composer, source: Source) -> int:
    """Runs a search and prints the table of its final training; returns the exit code."""
    assert command.search is not None
    try:
        if command.launcher in BY_WORKERS:
            return _leave_to_workers(command, source)
        folder = run_search(command.search, composer, sys.argv[1:], source=source)
    except Unwritable as error:
        return refuse([Problem("", str(error))])
    except SearchStopped as error:
        print_error("kdexp", f"the search stopped: {error}")
        return SOME_FAILED
    return _end_with_table(folder, stores_of(command))
