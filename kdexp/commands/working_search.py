"""One worker of a search, until its trials have ended: what follows are the jobs of a sweep."""

from __future__ import annotations

from kdexp.commands.search_final import list_final_training
from kdexp.commands.search_trials import GO_ON, Running, SearchStopped, continue_trial, trials_of
from kdexp.configuration.compose import Composer
from kdexp.errors import BadFile, NotHere, SweepLost
from kdexp.experiment.journal import Journal
from kdexp.experiment.session import Session
from kdexp.queue.job_list import JobList
from kdexp.queue.roster import Registration
from kdexp.search.plan import SearchPlan, plan_search
from kdexp.search.queue import TrialQueue
from kdexp.search.trials import Trials
from kdexp.sweep.searched import JOURNAL
from kdexp.validation.jobs import compose_and_check


def run_trials(listed: JobList, worker: Registration, composer: Composer, journal: Journal, session: Session) -> JobList:
    """Runs trials until all have ended here or elsewhere; returns the list of the final jobs, without any if none finished.

    Raises `NotHere` and `SweepLost`.
    """
    try:
        trials = Trials.read(listed.folder / JOURNAL)
        queue = TrialQueue(listed.folder, _same_plan(listed, composer, trials), trials)
        search = Running(queue, composer, journal, session)
        try:
            for trial in trials_of(queue):
                with worker.doing(trial.number, search.title(trial)):
                    continue_trial(search, trial)
            found = list_final_training(search)
        finally:
            queue.close()
    except (SearchStopped, BadFile) as error:
        if isinstance(error, BadFile) or not trials.concluded:
            raise NotHere(str(error)) from error
        journal.aside(f"the search stopped: {error}")
        return listed
    except SweepLost:
        raise
    except OSError as error:
        raise NotHere(f"{error}; {GO_ON}") from error
    worker.note(jobs=0, busy=0.0)  # a final job takes less than a trial, which had several seeds
    return found


def _same_plan(listed: JobList, composer: Composer, trials: Trials) -> SearchPlan:
    """The plan of the search, composed again here; raises `NotHere` if it is another one, or this machine can't run it."""
    plan, problems = plan_search(listed.search, composer, [], thoroughly=False)
    if plan is None or problems:
        raise NotHere("; ".join(map(str, problems)) or "its list of jobs names no search")
    if plan.identity != trials.identity:
        raise NotHere("its kdexp, YAML files or modules are not those of the machine that started this search")
    for space in plan.spaces:
        job = plan.trial_job(space, space.probes()[0], plan.settings.seeds[0])
        if found := compose_and_check([job], composer)[1]:
            raise NotHere(f"{space.method}: {'; '.join(map(str, found))}")
    return plan
