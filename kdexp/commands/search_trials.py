"""The trials of a search: each is one ordinary job per seed, judged by what its student reached on validation images."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from pathlib import Path

from kdexp.commands.command import PlannedJob
from kdexp.commands.multirun import run_job
from kdexp.configuration.compose import Composer
from kdexp.experiment.session import Session
from kdexp.search.choice import best_trial, distills
from kdexp.search.plan import SearchPlan
from kdexp.search.pruning import MedianPruner, Pruned, TrialJournal
from kdexp.search.samplers import propose
from kdexp.search.space import Space
from kdexp.search.trials import FAILED, FINISHED, PRUNED, Score, Trial, Trials
from kdexp.store.run_state import INTERRUPTED, write_state
from kdexp.store.stored import read_result
from kdexp.sweep.read import read
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


def next_space(search: Running) -> Space | None:
    """The method whose turn it is: that of the trial under way, else the one with the fewest trials; None after the last."""
    if trial := search.trials.running:
        return next(space for space in search.plan.spaces if space.method == trial.method)
    waiting = [space for space in search.plan.spaces if len(search.trials.of(space.method)) < search.plan.budget(space)]
    return min(waiting, key=lambda space: len(search.trials.of(space.method)), default=None)


def continue_trial(search: Running, space: Space) -> None:
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
    role, place = "distilled" if distills(config) else "baseline", unused(search.folder / TRIALS, f"{trial.number:03d}-{seed}")
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
        raise SearchStopped(f"{told.removeprefix('failed: ')}; {GO_ON}")  # other values would fail likewise
    score = _score(place, role)
    if score is None:
        trials.end(trial, FAILED, told.removeprefix("failed: "))
        return False
    trials.add_score(trial, seed, score)
    return True


def unused(folder: Path, name: str) -> Path:
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
