"""The end of a search: its lists and pictures, and the jobs that train what was chosen with fresh seeds."""

from __future__ import annotations

import json

from kdexp.commands.command import PlannedJob
from kdexp.commands.multirun import listing_of
from kdexp.commands.search_trials import Running, SearchStopped
from kdexp.experiment.lookahead import layers_read
from kdexp.files import write_whole
from kdexp.queue.job_list import JobList, add_jobs, read_jobs
from kdexp.search.choice import final_words, summary
from kdexp.search.listing import LISTING, listing
from kdexp.search.pictures import draw_search
from kdexp.sweep.searched import SEARCH, seed_words
from kdexp.validation.jobs import compose_and_check


def list_final_training(search: Running) -> JobList:
    """Lists the jobs that train each method's best trial and the best baseline with the fresh seeds, unless a process has.

    All trials have ended. Raises `SearchStopped` if none has finished, and `OSError`.
    """
    folder, trials = search.queue.folder, search.trials
    with trials.turn():
        listed = read_jobs(folder)
        if listed.jobs:
            return listed
        if not trials.concluded and not (jobs := _planned(search)):
            trials.conclude(f"no trial finished; the first: {trials.all[0].reason}")
        if trials.concluded:
            raise SearchStopped(trials.stopped)
        write_whole(folder / SEARCH, json.dumps(summary(search.plan, trials.all, search.composer.compose), indent=1))
        search.journal.headline(_illustrate(search))
        search.journal.headline(f"final training with {seed_words(search.plan.settings.final_seeds)}")
        return add_jobs(listed, listing_of(jobs), layers_read(job.config for job in jobs))


def _planned(search: Running) -> list[PlannedJob]:
    """The jobs of the final training; none if no trial finished."""
    jobs: list[PlannedJob] = []
    for each in final_words(search.plan, search.trials.all, search.composer.compose):
        words = [[*each.words, f"seed={seed}"] for seed in search.plan.settings.final_seeds]
        configs, found = compose_and_check(words, search.composer)
        if found:
            search.journal.warn(f"{each.name} can't be trained with fresh seeds: {found[0]}")
            continue
        jobs += [PlannedJob(len(jobs) + number, *job) for number, job in enumerate(zip(words, configs, strict=True))]
    return jobs


def _illustrate(search: Running) -> str:
    """Lists and draws the trials; returns a line about it."""
    folder, trials = search.queue.folder, search.trials.all
    write_whole(folder / LISTING, listing(trials))
    return f"{LISTING} lists the trials, {draw_search(search.plan, trials, folder / 'pictures')}"
