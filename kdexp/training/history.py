"""What one learner's steps and epochs measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kdexp.device import ranks


@dataclass
class History:
    """The losses and accuracies of finished epochs, and what the steps of the current epoch measured.

    `seconds` is the host's time in the learner's own steps, without data, teacher and evaluation. For recorded steps it is the
    learner's share of the device's time, with everything included.
    """

    epochs: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int | None = None
    """Counted from 1: the epoch with the highest validation accuracy, the first of equals."""
    seconds: float = 0.0
    columns: list[str] = field(default_factory=list)
    """Names of the loss terms."""
    notes: list[str] = field(default_factory=list)
    """Names of what methods measure beside them."""
    reads_labels: bool = True
    """Whether the last number that a step measures is the training accuracy."""
    trace: list[Tensor] = field(default_factory=list)
    """Loss terms, notes and training accuracy [width] of each step of the current epoch, on the device."""
    _stopwatch: Callable[[], float] | None = field(default=None, init=False)

    @property
    def width(self) -> int:
        """Numbers that a step measures."""
        return len(self.columns) + len(self.notes) + self.reads_labels

    def add_recorded(self, steps: Tensor, stopwatch: Callable[[], float]) -> None:
        """Adds recorded steps [steps, width]; `stopwatch` gives their seconds once the device is done."""
        self.trace += steps
        self._stopwatch = stopwatch

    def close_epoch(self, validation_accuracy: Tensor | None) -> Tensor:
        """All that the epoch measured, in one flat fp32 tensor on the device."""
        numbers = [ranks.add_up(torch.stack(self.trace).flatten())]
        if validation_accuracy is not None:
            numbers.append(validation_accuracy.view(1))
        self.trace = []
        return torch.cat(numbers)

    def record_epoch(self, numbers: Tensor, validated: bool) -> str:
        """Adds the epoch whose numbers `close_epoch` returned, now on the host; returns why it failed, or an empty string."""
        if self._stopwatch is not None:
            self.seconds += self._stopwatch()
            self._stopwatch = None
        steps = (numbers[:-1] if validated else numbers).view(-1, self.width)
        names = [*self.columns, *self.notes, *(["train_accuracy"] if self.reads_labels else [])]
        means = dict(zip(names, steps.mean(0).tolist(), strict=True))
        row = {"epoch": len(self.epochs) + 1, "loss": sum(means[name] for name in self.columns), **means}
        if validated:
            row["validation_accuracy"] = float(numbers[-1])
        failure = self._failure(steps[:, : len(self.columns)])
        self.epochs.append(row)
        if validated and not failure and row["validation_accuracy"] > self._best_accuracy():
            self.best_epoch = len(self.epochs)
        return failure

    def _best_accuracy(self) -> float:
        return -1.0 if self.best_epoch is None else self.epochs[self.best_epoch - 1]["validation_accuracy"]

    def _failure(self, terms: Tensor) -> str:
        """The first step and term [steps, terms] that is not finite."""
        bad = (~torch.isfinite(terms)).nonzero()
        if not len(bad):
            return ""
        step, term = bad[0].tolist()
        return f"{self.columns[term]} loss became {terms[step, term]:g} in epoch {len(self.epochs) + 1}, step {step + 1}"
