"""Runs a search: trials as ordinary jobs, judged on validation images, then the chosen ones with fresh seeds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from rich.console import Console

from kdexp.commands.command import PlannedJob
from kdexp.commands.multirun import list_jobs, run_job
from kdexp.commands.run import claim_folder, writing_to
from kdexp.configuration.compose import Composer
from kdexp.errors import BadFile, Unwritable
from kdexp.experiment.experiment import Experiment
from kdexp.experiment.journal import Journal
from kdexp.experiment.lookahead import layers_read
from kdexp.experiment.session import Session
from kdexp.files import at_home, write_whole
from kdexp.search.choice import best_trial, distills, final_words, summary
from kdexp.search.listing import LISTING, listing
from kdexp.search.pictures import draw_search
from kdexp.search.plan import SearchPlan
from kdexp.search.pruning import MedianPruner, Pruned, TrialJournal
from kdexp.search.samplers import propose
from kdexp.search.space import Space
from kdexp.search.trials import FAILED, FINISHED, PRUNED, Score, Trial, Trials
from kdexp.store.locks import hold
from kdexp.store.run_state import ALIVE, INTERRUPTED, runner, write_state
from kdexp.store.stored import read_result
from kdexp.sweep.read import FINISHED as JOB_FINISHED
from kdexp.sweep.read import read
from kdexp.sweep.searched import JOURNAL, SEARCH
from kdexp.text.numbers import percent
from kdexp.validation.jobs import compose_and_check

TRIALS = "trials"
"""Folder of the trials' jobs in the folder of a search; `jobs.json` lists only the final ones."""

GO_ON = "fix that and run the same command to go on"


class SearchStopped(RuntimeError):
    """The end of a search before its table: a file that can't be written, data that can't be read, or no finished trial."""


@dataclass
class Running:
    """A search under way: its plan, its folder, and what its jobs share."""

    plan: SearchPlan
    folder: Path
    trials: Trials
    composer: Composer
    journal: TrialJournal
    session: Session

    @property
    def total(self) -> int:
        """The number of trials of all methods."""
        return sum(map(self.plan.budget, self.plan.spaces))

    @property
    def done(self) -> int:
        """The number of trials that have ended."""
        return len(self.trials.all) - (self.trials.running is not None)


def run_search(plan: SearchPlan, composer: Composer, command: Sequence[str], console: Console | None = None) -> Path:
    """Runs a search, or goes on with one that the same command has begun; returns its folder.

    Raises `Unwritable` before anything is trained, and `SearchStopped` later.
    """
    folder, trials = claim_search(plan, command)
    journal, session = TrialJournal(Journal(console)), Session()
    search = Running(plan, folder, trials, composer, journal, session)
    seeds = ", ".join(map(str, plan.settings.seeds))
    state = f"goes on after {search.done} of {search.total} trials" if trials.all else f"{search.total} trials"
    journal.headline(f"search folder: {folder}, {state}; compared on validation images with seeds {seeds}")
    with ExitStack() as alive:
        alive.callback(session.close)
        with suppress(OSError):
            hold(folder / ALIVE, alive)
        with suppress(Exception):  # the jobs report it
            session.layers = layers_read(config for probed in plan.configs for config in probed)
            Experiment(plan.config, journal, session).claim([], folder)
        try:
            while space := _next_space(search):
                _continue(search, space)
            _train_chosen(search, command)
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
            trials = Trials.read(path)
            if trials.identity == identity and not trials.concluded:
                if process := runner(path.parent):
                    raise Unwritable(f"{process} is working on this search in {path.parent}; wait for it, or end it")
                return path.parent, trials
    with writing_to(plan.config):
        folder = claim_folder(sweeps, plan.config)
        list_jobs(folder, [], command)
        return folder, Trials.begin(folder / JOURNAL, identity)


def _next_space(search: Running) -> Space | None:
    """The method whose turn it is: that of the trial under way, else the one with the fewest trials; None after the last."""
    if trial := search.trials.running:
        return next(space for space in search.plan.spaces if space.method == trial.method)
    waiting = [space for space in search.plan.spaces if len(search.trials.of(space.method)) < search.plan.budget(space)]
    return min(waiting, key=lambda space: len(search.trials.of(space.method)), default=None)


def _continue(search: Running, space: Space) -> None:
    """Runs the trial under way or, if there is none, a new one of this method."""
    trials, settings = search.trials, search.plan.settings
    trial = trials.running or trials.start(space.method, propose(space, settings, trials.of(space.method)))
    for position, seed in enumerate(settings.seeds):
        if seed not in trial.scores and not _run(search, space, trial, position):
            break
    else:
        trials.end(trial, FINISHED)
    name = f"{trial.method}  " * (len(search.plan.spaces) > 1) + " ".join(trial.words)
    search.journal.headline(f"trial {trial.number + 1}/{search.total}  {name}: {_outcome(search, trial)}")


def _outcome(search: Running, trial: Trial) -> str:
    if trial.state != FINISHED:
        return f"{trial.state}: {trial.reason}"
    best = best_trial(search.trials.of(trial.method))
    leading = "the best so far" if best is trial else f"best {percent(best.value if best else None)} %"
    return f"validation {percent(trial.value)} %, {leading}"


def _run(search: Running, space: Space, trial: Trial, position: int) -> bool:
    """Runs a trial's job with the seed at that position; returns whether the trial goes on. Raises `SearchStopped`."""
    settings, trials, journal = search.plan.settings, search.trials, search.journal
    seed = settings.seeds[position]
    words = search.plan.trial_job(space, trial.words, seed)
    (config,), found = compose_and_check([words], search.composer)
    if found:  # of a combination: each value alone is right
        trials.end(trial, FAILED, str(found[0]))
        return False
    role, place = "distilled" if distills(config) else "baseline", _unused(search.folder / TRIALS, f"{trial.number:03d}-{seed}")
    others = [other for other in trials.of(trial.method) if other is not trial]
    journal.role = role
    journal.pruner = MedianPruner(others, position, config["epochs"]) if settings.pruner == "median" else None
    try:
        place.parent.mkdir(exist_ok=True)
        told = run_job(PlannedJob(trial.number, words, config), place, journal, search.session)
    except Pruned as pruned:
        write_state(place, INTERRUPTED, f"pruned: {pruned}")
        trials.end(trial, PRUNED, f"{pruned} of seed {seed}", pruned.curve)
        return False
    finally:
        journal.pruner = None
    if not (place / "table.json").exists() and not (place / "traceback.txt").exists():
        raise SearchStopped(f"{told.removeprefix('failed: ')}; {GO_ON}")  # it has nothing to do with the trial's values
    score = _score(place, role)
    if score is None:
        trials.end(trial, FAILED, told.removeprefix("failed: "))
        return False
    trials.add_score(trial, seed, score)
    return True


def _unused(folder: Path, name: str) -> Path:
    """A folder of that name, or with a number behind it after a job there that was cut off."""
    return next(place for number in count(1) if not (place := folder / (name if number == 1 else f"{name}_{number}")).exists())


def _score(place: Path, role: str) -> Score | None:
    """What a job reached on validation images; None if the learner in that role failed."""
    sweep = read([place])
    learners = sweep.jobs[0].learners
    if role not in learners:
        return None
    student = sweep.results[learners[role]]
    beside = sweep.results.get(learners.get("baseline", "")) if role != "baseline" else None
    history = read_result(student.folder).result["history"]
    assert student.validation is not None, "a data set without validation images is refused before"
    return Score(
        student.validation, beside.validation if beside else None, tuple(row["validation_accuracy"] for row in history)
    )


def _train_chosen(search: Running, command: Sequence[str]) -> None:
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
    search.journal.headline(f"final training with seeds {', '.join(map(str, plan.settings.final_seeds))}")
    for job in jobs:
        place = search.folder / job.folder
        if _finished(place):
            continue
        if place.exists():
            place.rename(_unused(search.folder, f"{place.name}-cut-off"))
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
    return place.is_dir() and read([place]).jobs[0].state == JOB_FINISHED
