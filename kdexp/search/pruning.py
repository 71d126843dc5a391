"""Ends a trial that is worse than most others were after the same epoch of the same seed."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from kdexp.search.trial import FAILED, Trial
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
    """Compares a trial's training with one seed, the one at `position`, with other trials of its method."""

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

    def follow(self, role: str, learners: Sequence[Learner]) -> None:
        """Checks the learner in that role after an epoch of a training."""
        for learner in learners:
            if learner.name == role and not learner.failure:
                self.check([row["validation_accuracy"] for row in learner.history])
