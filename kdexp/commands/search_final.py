"""The end of a search: its lists and pictures, and the chosen trials trained with fresh seeds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from kdexp.commands.command import PlannedJob
from kdexp.commands.multirun import list_jobs, run_job
from kdexp.commands.search_trials import Running, SearchStopped, unused
from kdexp.files import write_whole
from kdexp.search.choice import final_words, summary
from kdexp.search.listing import LISTING, listing
from kdexp.search.pictures import draw_search
from kdexp.store.run_state import FINISHED
from kdexp.sweep.read import read
from kdexp.sweep.searched import SEARCH, seed_words
from kdexp.validation.jobs import compose_and_check


def train_chosen(search: Running, command: Sequence[str]) -> None:
    """Trains each method's best trial and the best baseline with the fresh seeds; jobs that have finished stay as they are."""
    plan, trials, compose = search.plan, search.trials.all, search.composer.compose
    chosen = final_words(plan, trials, compose)
    if not chosen:
        search.trials.conclude()
        raise SearchStopped(f"no trial finished; the first: {trials[0].reason}")
    jobs: list[PlannedJob] = []
    for each in chosen:
        words = [[*each.words, f"seed={seed}"] for seed in plan.settings.final_seeds]
        configs, found = compose_and_check(words, search.composer)
        if found:
            search.journal.warn(f"{each.name} can't be trained with fresh seeds: {found[0]}")
            continue
        jobs += [PlannedJob(len(jobs) + number, *job) for number, job in enumerate(zip(words, configs, strict=True))]
    list_jobs(search.folder, jobs, command)
    write_whole(search.folder / SEARCH, json.dumps(summary(plan, trials, compose), indent=1))
    common = set.intersection(*(set(job.overrides) for job in jobs)) if len(chosen) > 1 else set(chosen[0].words)
    search.journal.headline(_illustrate(search))
    search.journal.headline(f"final training with {seed_words(plan.settings.final_seeds)}")
    for job in jobs:
        place = search.folder / job.folder
        if _finished(place):
            continue
        if place.exists():
            place.rename(unused(search.folder, f"{place.name}-cut-off"))
        told = run_job(job, place, search.journal, search.session)
        own = " ".join(word for word in job.overrides if word not in common)
        search.journal.headline(f"{job.number + 1}/{len(jobs)}  {own}: {told}")
    if all(_finished(search.folder / job.folder) for job in jobs):
        search.trials.conclude()


def _illustrate(search: Running) -> str:
    """Lists and draws the trials; returns a line about it."""
    write_whole(search.folder / LISTING, listing(search.trials.all))
    return f"{LISTING} lists the trials, {draw_search(search.plan, search.trials.all, search.folder / 'pictures')}"


def _finished(place: Path) -> bool:
    return place.is_dir() and read([place]).jobs[0].state == FINISHED
