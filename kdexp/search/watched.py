"""What workers do for a search, as the process that watches them knows it: first its trials, then the jobs with fresh seeds."""

from __future__ import annotations

from pathlib import Path

from kdexp.errors import BadFile, SweepLost
from kdexp.queue.job_list import JobList, read_jobs
from kdexp.queue.watch import SweepWork
from kdexp.search.plan import SearchPlan
from kdexp.search.trial import FAILED
from kdexp.search.trials import Trials
from kdexp.sweep.searched import seed_words
from kdexp.text.numbers import count


class SearchWork:
    """Trials until the final training is listed, which one of the workers does, then its jobs."""

    def __init__(self, listed: JobList, trials: Trials, plan: SearchPlan):
        self._folder, self._trials, self._plan = listed.folder, trials, plan
        self.jobs = SweepWork(listed) if listed.jobs else None
        """Of the final training, None before."""

    def __str__(self) -> str:
        return state_words(self._folder, self._plan, self._trials)

    @property
    def noun(self) -> str:
        """What is counted."""
        return self.jobs.noun if self.jobs else "trial"

    @property
    def total(self) -> int:
        """How many trials or jobs there are."""
        return self.jobs.total if self.jobs else self._plan.total

    @property
    def over(self) -> int:
        """How many of them have ended."""
        return self.jobs.over if self.jobs else self._trials.ended

    @property
    def failed(self) -> int:
        """How many of those failed."""
        return self.jobs.failed if self.jobs else sum(trial.state == FAILED for trial in self._trials.all)

    @property
    def left(self) -> int:
        """How many workers would find something to do; after the last trial one lists the final training."""
        if self.jobs:
            return self.jobs.left
        return 0 if self._trials.concluded else max(1, self.total - self.over)

    @property
    def stopped(self) -> str:
        """Why there is no final training, if the search ended without."""
        return self._trials.stopped

    def check(self) -> None:
        """Looks at the journal of trials, and at the jobs that are left once there are any; raises `SweepLost`."""
        if self.jobs is None:
            try:
                self._trials.refresh()
                listed = read_jobs(self._folder)
            except (OSError, BadFile) as error:
                raise SweepLost(str(error)) from error
            self.jobs = SweepWork(listed) if listed.jobs else None
        if self.jobs:
            self.jobs.check()

    def look_at(self, _number: int) -> None:
        """Looks at all of them: trials and jobs may have the same number."""
        self.check()


def state_words(folder: Path, plan: SearchPlan, trials: Trials) -> str:
    """Where a search is, and how far."""
    done = f"goes on after {trials.ended} of " * bool(trials.all)
    seeds = seed_words(plan.settings.seeds)
    return f"search folder: {folder}, {done}{count(plan.total, 'trial')}; compared on validation images with {seeds}"
