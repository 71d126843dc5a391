"""Runs a search: trials as ordinary jobs, judged on validation images, then the chosen ones with fresh seeds."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path

from rich.console import Console

from kdexp.commands.command import PlannedJob
from kdexp.commands.multirun import jobs_of, make_stores, run_job, session_of
from kdexp.commands.run import claim_folder, writing_to
from kdexp.commands.search_final import list_final_training
from kdexp.commands.search_trials import GO_ON, Running, SearchStopped, continue_trial, trials_of
from kdexp.configuration.compose import Composer
from kdexp.errors import BadFile, Unwritable
from kdexp.experiment.experiment import Experiment
from kdexp.experiment.journal import Journal
from kdexp.experiment.lookahead import layers_read
from kdexp.experiment.session import Session
from kdexp.files import at_home
from kdexp.queue.attach import left_in
from kdexp.queue.job_list import SHIPPED, JobList, Source, read_jobs, write_jobs
from kdexp.queue.queue import Queue
from kdexp.search.plan import SearchPlan
from kdexp.search.queue import TrialQueue
from kdexp.search.trials import Trials
from kdexp.search.watched import state_words
from kdexp.store.locks import hold
from kdexp.store.run_state import ALIVE, runner
from kdexp.sweep.searched import JOURNAL


def run_search(
    plan: SearchPlan,
    composer: Composer,
    command: Sequence[str],
    console: Console | None = None,
    source: Source = SHIPPED,
) -> Path:
    """Runs a search, or goes on with one that the same command has begun; returns its folder.

    Raises `Unwritable` before anything is trained, and `SearchStopped` later. Where `kdexp-work` takes trials or jobs of the
    folder too, waits for these.
    """
    listed = find_search(plan)
    if listed and (process := runner(listed.folder)):
        raise Unwritable(f"{process} is working on this search in {listed.folder}; wait for it, or end it")
    listed = listed or begin_search(plan, command, source)
    trials = Trials.read(listed.folder / JOURNAL)
    journal, session = Journal(console, quiet=True), session_of(listed)
    journal.headline(state_words(listed.folder, plan, trials))
    with ExitStack() as alive:
        alive.callback(session.close)
        with suppress(OSError):
            hold(listed.folder / ALIVE, alive)
        with suppress(Exception):  # the jobs report it
            Experiment(plan.config, journal, session).claim([], listed.folder)
        try:
            trials.allow(plan.settings.parallel or 1)
            with closing(TrialQueue(listed.folder, plan, trials)) as queue:
                listed = _run_trials(Running(queue, composer, journal, session))
            _run_jobs(listed, composer, journal, session)
            conclude(listed.folder)
        except KeyboardInterrupt:
            journal.headline(f"{trials.ended} of {plan.total} trials are done; they are in {listed.folder}")
            raise
        except (OSError, BadFile) as error:
            raise SearchStopped(f"{error}; {GO_ON}") from error
    return listed.folder


def _run_trials(search: Running) -> JobList:
    """Runs all trials; returns the list of the final training."""
    for trial in trials_of(search.queue):
        continue_trial(search, trial)
    return list_final_training(search)


def _run_jobs(listed: JobList, composer: Composer, journal: Journal, session: Session) -> None:
    """Runs the jobs of the final training."""
    with Queue(listed) as queue:
        for taken in jobs_of(queue, wait=True):
            job = PlannedJob(taken.number, taken.overrides, composer.compose(taken.overrides))
            told = run_job(job, listed.folder_of(taken), journal, session)
            journal.result(f"{listed.title(taken)}: {told}", taken.number)


def find_search(plan: SearchPlan) -> JobList | None:
    """The newest unfinished search like this one."""
    sweeps, identity = at_home(str(plan.config["output_dir"])) / "sweeps", plan.identity
    for path in sorted(sweeps.glob(f"*/{JOURNAL}"), reverse=True):
        with suppress(BadFile, OSError):
            if Trials.identity_in(path) == identity and not Trials.read(path).concluded:
                return read_jobs(path.parent)
    return None


def begin_search(plan: SearchPlan, command: Sequence[str], source: Source, *, by_workers: bool = False) -> JobList:
    """Makes the folder of a new search; raises `Unwritable`."""
    configs, layers = [config for probed in plan.configs for config in probed], {}
    with suppress(Exception):  # the jobs report it
        layers = layers_read(configs)
    if by_workers:
        make_stores(configs)
    with writing_to(plan.config):
        folder = claim_folder(at_home(str(plan.config["output_dir"])) / "sweeps", plan.config)
        Trials.begin(folder / JOURNAL, plan.identity)
        return write_jobs(folder, [], command, configs, layers, source, by_workers=by_workers, search=plan.words)


def conclude(folder: Path) -> None:
    """Marks a search whose jobs are over as finished, so that the same command starts another one; raises `OSError`."""
    if not left_in(read_jobs(folder)):
        Trials.read(folder / JOURNAL).conclude()
