"""A multirun or a search that is left to workers: lists the jobs, starts the workers, and watches until all is over."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from rich.console import Console

from kdexp.commands.command import Command
from kdexp.commands.crews import crew_of, plan_workers
from kdexp.commands.multirun import claim_sweep
from kdexp.commands.process import code_of
from kdexp.commands.run import digest_of, writing_to
from kdexp.commands.search import begin_search, find_search
from kdexp.commands.search_trials import SearchStopped
from kdexp.files import at_home
from kdexp.queue.attach import find_unfinished
from kdexp.queue.crew import Crew, Onlookers
from kdexp.queue.job_list import JobList, Source
from kdexp.queue.roster import live_workers
from kdexp.queue.screen import SweepScreen
from kdexp.queue.watch import SweepWork, Watch, Work
from kdexp.search.plan import SearchPlan
from kdexp.search.trials import Trials
from kdexp.search.watched import SearchWork
from kdexp.store.locks import hold, take_turns
from kdexp.store.run_state import ALIVE, runner
from kdexp.sweep.searched import JOURNAL
from kdexp.text.console import Screen
from kdexp.text.numbers import count

TURNS = "starting.lock"
"""Held while a command looks for its unfinished sweep or lists a new one."""


class Detached(Exception):
    """The workers go on without this process, which ends with `code`."""

    def __init__(self, code: int):
        self.code = code
        super().__init__()


def run_by_workers(command: Command, typed: Sequence[str], source: Source, console: Console | None = None) -> Path:
    """Leaves the jobs of a multirun or a search to workers; returns the folder once they are over or no worker is left.

    Raises `InvalidArguments` and `Unwritable` before anything is started, then `OSError`, mostly `SweepLost`, and for a search
    `BadFile` and `SearchStopped`.
    """
    console = console or Screen()
    search = command.search
    jobs = search.total if search else len(command.jobs)
    plan = plan_workers(command.launcher, command.hydra.launcher, command.configs, jobs)
    with ExitStack() as until:
        listed = _find_or_list(command, typed, source)
        crew = crew_of(listed.folder, plan)
        lead = _Lead(listed.folder, until, crew, str(plan))
        work = _search_work(listed, search, plan.workers if lead.first else None) if search else SweepWork(listed)
        watch, screen = Watch(listed.folder, work), until.enter_context(SweepScreen(console))
        screen.line(str(work))
        screen.line(str(plan) if lead.first else f"{lead.other} started the workers of this sweep; this command watches")
        if work.left and not command.hydra.launcher.get("wait", True):
            if lead.first:
                for sentence in crew.tick(work.left, live_workers(listed.folder)):
                    screen.line(sentence)
                screen.line(f"{crew.detaches}; {_how_to_look(listed.folder, work)}")
            raise Detached(0)
        _follow(watch, lead, screen, listed.folder)
        missing = f"no worker is left, but {count(work.left, work.noun)}; the same command goes on with them"
        if isinstance(work, SearchWork) and work.jobs is None:
            raise SearchStopped(work.stopped or missing)
        if work.left:
            screen.line(missing)
    return listed.folder


def _follow(watch: Watch, lead: _Lead, screen: SweepScreen, folder: Path) -> None:
    """Watches until all is over. Ctrl-C ends the workers that this process has started, or raises `Detached` if they go on."""
    try:
        watch.follow(partial(lead.crew, screen), screen)
    except KeyboardInterrupt as stop:
        lead.crew().stop()
        screen.line(_how_to_look(folder, watch.work))
        if goes_on := lead.crew().detaches:
            screen.line(goes_on)
            raise Detached(code_of(stop)) from stop
        raise
    except BaseException:
        lead.crew().stop()
        raise
    lead.crew().leave()


def _search_work(listed: JobList, search: SearchPlan, workers: int | None) -> SearchWork:
    """What is left of a search, in which as many trials may run at once as there are workers; None leaves that as it is."""
    trials = Trials.read(listed.folder / JOURNAL)
    if workers is not None:
        trials.allow(search.settings.parallel or workers)
    return SearchWork(listed, trials, search)


def _how_to_look(folder: Path, work: Work) -> str:
    """How a user sees what is finished while no command watches."""
    if work.noun == "trial":
        return f"{folder / JOURNAL} has the trials so far"
    return f"kdexp-report {shlex.quote(str(folder))} shows what is finished"


class _Lead:
    """Whether this process starts the workers, or another one that watches the same sweep; it takes over when that ends."""

    def __init__(self, folder: Path, until: ExitStack, crew: Crew, plan: str):
        self._folder, self._until, self._own, self._plan = folder, until, crew, plan
        self._onlookers = Onlookers()
        self._leads = False
        self.first = self._try()
        self.other = "" if self.first else runner(folder) or "another process"

    def crew(self, screen: SweepScreen | None = None) -> Crew:
        """The crew of this process if it leads now, else that of an onlooker; the screen shows when it takes over."""
        if not self._leads and self._try() and screen:
            screen.line(f"{self.other} has ended; this command goes on with {self._plan}")
        return self._own if self._leads else self._onlookers

    def _try(self) -> bool:
        try:
            hold(self._folder / ALIVE, self._until)
        except TimeoutError:  # another process does
            return False
        self._leads = True
        return True


def _find_or_list(command: Command, typed: Sequence[str], source: Source) -> JobList:
    """The unfinished sweep or search that this command started before, or a new one; raises `Unwritable`."""
    config = command.configs[0]
    sweeps = at_home(str(config["output_dir"])) / "sweeps"
    with writing_to(config), ExitStack() as turn:
        sweeps.mkdir(parents=True, exist_ok=True)
        take_turns(sweeps / TURNS, turn)
        if command.search is not None:
            return find_search(command.search) or begin_search(command.search, typed, source, by_workers=True)
        jobs = [job.overrides for job in command.jobs]
        found = find_unfinished(sweeps, digest_of(config), jobs, source)
        return found or claim_sweep(command.jobs, typed, source, by_workers=True)
