"""The trials of a search: each is one ordinary job per seed, judged by what its student reached on validation images."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from kdexp.commands.command import PlannedJob
from kdexp.commands.multirun import POLL, run_job
from kdexp.configuration.compose import Composer
from kdexp.experiment.journal import Journal
from kdexp.experiment.session import Session
from kdexp.search.choice import best_trial, distills, space_of
from kdexp.search.plan import SearchPlan
from kdexp.search.pruning import MedianPruner, Pruned
from kdexp.search.queue import TrialQueue
from kdexp.search.trial import FAILED, FINISHED, PRUNED, Score, Trial
from kdexp.search.trials import Trials
from kdexp.store.run_state import INTERRUPTED, write_state
from kdexp.store.stored import read_result
from kdexp.sweep.read import read
from kdexp.text.numbers import percent
from kdexp.validation.jobs import compose_and_check

GO_ON = "fix that and run the same command to go on"


class SearchStopped(RuntimeError):
    """The end of a search before its table: a file that can't be written, data that can't be read, or no finished trial."""


@dataclass
class Running:
    """A search as one of the processes that run it knows it, and what this one's jobs share."""

    queue: TrialQueue
    composer: Composer
    journal: Journal
    session: Session

    @property
    def plan(self) -> SearchPlan:
        """What is searched."""
        return self.queue.plan

    @property
    def trials(self) -> Trials:
        """All trials."""
        return self.queue.trials

    def title(self, trial: Trial) -> str:
        """A trial's position, its method if there are several, and its values."""
        method = f"{trial.method}  " * (len(self.plan.spaces) > 1)
        return f"trial {trial.number + 1}/{self.plan.total}  {method}{' '.join(trial.words)}"


def trials_of(queue: TrialQueue) -> Iterator[Trial]:
    """The trials that this process takes, each until the next, until all have ended here or elsewhere."""
    while (trial := queue.take()) or queue.left:
        if trial is None:
            time.sleep(POLL)
        else:
            yield trial
            queue.end(trial)


def continue_trial(search: Running, trial: Trial) -> None:
    """Runs what a trial lacks; raises `SearchStopped`."""
    settings = search.plan.settings
    for position, seed in enumerate(settings.seeds):
        if seed not in trial.scores and not _run(search, trial, position):
            break
    else:
        search.trials.end(trial, FINISHED)
    search.journal.result(f"{search.title(trial)}: {_outcome(search, trial)}", trial.number)


def _outcome(search: Running, trial: Trial) -> str:
    if trial.state != FINISHED:
        return f"{trial.state}: {trial.reason}"
    best = best_trial(search.trials.of(trial.method))
    leading = "the best so far" if best is trial else f"best {percent(best.value if best else None)} %"
    return f"validation {percent(trial.value)} %, {leading}"


def _run(search: Running, trial: Trial, position: int) -> bool:
    """Runs a trial's job with the seed at that position; returns whether the trial goes on. Raises `SearchStopped`."""
    settings, trials, journal = search.plan.settings, search.trials, search.journal
    seed = settings.seeds[position]
    words = search.plan.trial_job(space_of(search.plan, trial), trial.words, seed)
    (config,), found = compose_and_check([words], search.composer)
    if found:  # of a combination: each value alone is right
        trials.end(trial, FAILED, str(found[0]))
        return False
    role, place = "distilled" if distills(config) else "baseline", search.queue.place(trial, seed)
    if settings.pruner == "median":
        journal.after_epoch = partial(MedianPruner(trials.known_to(trial), position, config["epochs"]).follow, role)
    try:
        told = run_job(PlannedJob(trial.number, words, config), place, journal, search.session, trial=True)
    except Pruned as pruned:
        write_state(place, INTERRUPTED, f"pruned: {pruned}")
        trials.end(trial, PRUNED, f"{pruned} of seed {seed}", pruned.curve)
        return False
    finally:
        journal.after_epoch = None
    if not (place / "table.json").exists() and not (place / "traceback.txt").exists():
        raise SearchStopped(f"{told.removeprefix('failed: ')}; {GO_ON}")  # other values would fail likewise
    score = _score(place, role) if (place / "table.json").exists() else None
    if score is None:
        trials.end(trial, FAILED, told.removeprefix("failed: "))
        return False
    trials.add_score(trial, seed, score)
    return True


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
