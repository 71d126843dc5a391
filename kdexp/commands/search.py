"""Runs a search: trials as ordinary jobs, judged on validation images, then the chosen ones with fresh seeds."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from rich.console import Console

from kdexp.commands.multirun import list_jobs
from kdexp.commands.run import claim_folder, writing_to
from kdexp.commands.search_final import train_chosen
from kdexp.commands.search_trials import GO_ON, Running, SearchStopped, continue_trial, next_space
from kdexp.configuration.compose import Composer
from kdexp.errors import BadFile, Unwritable
from kdexp.experiment.experiment import Experiment
from kdexp.experiment.journal import Journal
from kdexp.experiment.lookahead import layers_read
from kdexp.experiment.session import Session
from kdexp.files import at_home
from kdexp.search.plan import SearchPlan
from kdexp.search.pruning import TrialJournal
from kdexp.search.trials import Trials
from kdexp.store.locks import hold
from kdexp.store.run_state import ALIVE, runner
from kdexp.sweep.searched import JOURNAL, seed_words
from kdexp.text.numbers import count


def run_search(plan: SearchPlan, composer: Composer, command: Sequence[str], console: Console | None = None) -> Path:
    """Runs a search, or goes on with one that the same command has begun; returns its folder.

    Raises `Unwritable` before anything is trained, and `SearchStopped` later.
    """
    folder, trials = claim_search(plan, command)
    journal, session = TrialJournal(Journal(console)), Session()
    search = Running(plan, folder, trials, composer, journal, session)
    state = f"goes on after {search.done} of " * bool(trials.all) + count(search.total, "trial")
    journal.headline(f"search folder: {folder}, {state}; compared on validation images with {seed_words(plan.settings.seeds)}")
    with ExitStack() as alive:
        alive.callback(session.close)
        with suppress(OSError):
            hold(folder / ALIVE, alive)
        with suppress(Exception):  # the jobs report it
            session.layers = layers_read(config for probed in plan.configs for config in probed)
            Experiment(plan.config, journal, session).claim([], folder)
        try:
            while space := next_space(search):
                continue_trial(search, space)
            train_chosen(search, command)
        except KeyboardInterrupt:
            journal.headline(f"{search.done} of {search.total} trials are done; they are in {folder}")
            raise
        except OSError as error:
            raise SearchStopped(f"{error}; {GO_ON}") from error
    return folder


def claim_search(plan: SearchPlan, command: Sequence[str]) -> tuple[Path, Trials]:
    """The folder and the trials of an unfinished search like this one, or new ones; raises `Unwritable`."""
    sweeps, identity = at_home(str(plan.config["output_dir"])) / "sweeps", plan.identity
    for path in sorted(sweeps.glob(f"*/{JOURNAL}"), reverse=True):
        with suppress(BadFile, OSError):
            if Trials.identity_in(path) == identity and not (trials := Trials.read(path)).concluded:
                if process := runner(path.parent):
                    raise Unwritable(f"{process} is working on this search in {path.parent}; wait for it, or end it")
                return path.parent, trials
    with writing_to(plan.config):
        folder = claim_folder(sweeps, plan.config)
        list_jobs(folder, [], command)
        return folder, Trials.begin(folder / JOURNAL, identity)
