"""Hands out the trials of a search, each to one process at a time."""

from __future__ import annotations

from itertools import count
from pathlib import Path

from kdexp.errors import SweepLost
from kdexp.queue.queue import CLAIMS, MOST_DEATHS
from kdexp.search.plan import SearchPlan
from kdexp.search.samplers import propose
from kdexp.search.space import Space
from kdexp.search.trial import FAILED, Trial
from kdexp.search.trials import Trials
from kdexp.store.numbered_locks import numbered_locks
from kdexp.store.run_files import JOBS
from kdexp.store.run_state import FAILED as JOB_FAILED
from kdexp.store.run_state import FINISHED, INTERRUPTED, state_of
from kdexp.sweep.searched import TRIALS


class TrialQueue:
    """The trials that are left: those that nobody works on any more, and those that are still to be proposed.

    Where results of earlier trials matter, a new one waits until all that it is to know have ended, so that it does not depend
    on who was quicker.
    """

    def __init__(self, folder: Path, plan: SearchPlan, trials: Trials):
        self.folder, self.plan, self.trials = folder, plan, trials
        (folder / TRIALS).mkdir(exist_ok=True)
        self._locks = numbered_locks(folder / TRIALS / CLAIMS)

    def close(self) -> None:
        """Gives up everything."""
        self._locks.close()

    @property
    def left(self) -> int:
        """How many trials have not ended."""
        return self.plan.total - self.trials.ended

    def take(self) -> Trial | None:
        """Claims a trial, a new one if all that have begun are in other hands; None if there is none, or none yet.

        Raises `SweepLost` if the folder has disappeared.
        """
        if not (self.folder / JOBS).is_file():
            raise SweepLost(f"{self.folder} has disappeared, and with it the trials of the search")
        with self.trials.turn():
            for trial in self.trials.running:
                if self._locks.take(trial.number):
                    if not self._give_up(trial):
                        return trial
                    self._locks.release(trial.number)
            return self._begin()

    def end(self, trial: Trial) -> None:
        """Gives up a trial that has ended."""
        self._locks.release(trial.number)

    def place(self, trial: Trial, seed: int) -> Path:
        """A new folder for a trial's job, with a number behind its name after one that was cut off."""
        name = self.folder / TRIALS / f"{trial.number:03d}-{seed}"
        places = (name if number == 1 else name.with_name(f"{name.name}_{number}") for number in count(1))
        return next(place for place in places if not place.exists())

    def _begin(self) -> Trial | None:
        """The next trial, claimed, unless it has to wait."""
        trials = self.trials
        space = next_space(self.plan, trials)
        waits = self.plan.settings.learns and any(trial.number < trials.known_to_next for trial in trials.running)
        if space is None or waits:
            return None
        words = propose(space, self.plan.settings, trials.as_known_to_next(space.method))
        if not self._locks.take(len(trials.all)):
            return None
        return trials.start(space.method, words)

    def _give_up(self, trial: Trial) -> bool:
        """Whether a trial has killed so many processes that it has failed."""
        over = (INTERRUPTED, FINISHED, JOB_FAILED)
        deaths = sum(state_of(place) not in over for place in (self.folder / TRIALS).glob(f"{trial.number:03d}-*"))
        if deaths >= MOST_DEATHS:
            self.trials.end(trial, FAILED, f"its process was killed {deaths} times, perhaps for want of memory")
        return deaths >= MOST_DEATHS


def next_space(plan: SearchPlan, trials: Trials) -> Space | None:
    """The method whose turn it is, the one with the fewest trials; None after the last."""
    waiting = [space for space in plan.spaces if len(trials.of(space.method)) < plan.budget(space)]
    return min(waiting, key=lambda space: len(trials.of(space.method)), default=None)
