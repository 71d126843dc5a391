"""Ends a trial that is worse than most others were after the same epoch of the same seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import median

from kdexp.experiment.journal import Journal, TrainingWatch
from kdexp.search.trials import FAILED, Trial
from kdexp.training.learner import Learner

FEWEST = 5
"""Other trials with a value for that epoch, before any trial is ended."""

WARM_UP = 0.1
"""Share of the epochs in which no trial is ended."""


class Pruned(BaseException):
    """Ends the training of a trial. Not an `Exception`, which a learner would take for its own failure."""

    def __init__(self, curve: Sequence[float]):
        super().__init__(f"below the median of the other trials after epoch {len(curve)}")
        self.curve = tuple(curve)


class MedianPruner:
    """Compares a trial's training with one seed, the one at `position`, with the other trials of its method."""

    def __init__(self, others: Sequence[Trial], position: int, epochs: int):
        self.first, self.epochs = max(1, round(WARM_UP * epochs)), epochs
        usable = [trial.curves for trial in others if trial.state != FAILED]
        self.curves = [curves[position] for curves in usable if len(curves) > position]

    def check(self, curve: Sequence[float]) -> None:
        """Raises `Pruned` if the highest accuracy of a curve is below the median of the others after as many epochs."""
        done = len(curve)
        others = [other[done - 1] for other in self.curves if len(other) >= done]
        if self.first < done < self.epochs and len(others) >= FEWEST and max(curve) < median(others):
            raise Pruned(curve)


class TrialJournal(Journal):
    """A quiet journal that shows a pruner every epoch of the learner called `role`."""

    pruner: MedianPruner | None = None
    role = ""

    def __init__(self, journal: Journal):
        super().__init__(journal.console, quiet=True)

    @contextmanager
    def watching(self, learners: Sequence[Learner], epochs: int, steps: int) -> Iterator[TrainingWatch]:
        """As for any journal, with the pruner between the epochs."""
        with super().watching(learners, epochs, steps) as watch:
            yield watch if self.pruner is None else _PrunedWatch(watch, self.pruner, self.role)


class _PrunedWatch(TrainingWatch):
    """Follows a training as `watch` does, then shows the epoch to the pruner."""

    def __init__(self, watch: TrainingWatch, pruner: MedianPruner, role: str):
        self._watch, self._pruner, self._role = watch, pruner, role

    def step(self, learners: Sequence[Learner]) -> None:
        self._watch.step(learners)

    def epoch(self, learners: Sequence[Learner]) -> None:
        self._watch.epoch(learners)
        for learner in learners:
            if learner.name == self._role and not learner.failure:
                self._pruner.check([row["validation_accuracy"] for row in learner.history])
