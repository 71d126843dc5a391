"""What a run says while it works: on the terminal with bars, into a pipe as plain lines, and into the run's log."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from kdexp.learner import Learner

PLAIN_LINES = 10
"""About so many lines a training leaves in a log."""


class Journal:
    """Everything said goes to the console and, once there is a run folder, to its log."""

    def __init__(self, console: Console | None = None):
        self.console = console or Console(highlight=False)
        self._log: Console | None = None

    def open_log(self, path: Path) -> None:
        """Also writes into this file from now on."""
        self._log = Console(file=path.open("w"), width=200, highlight=False)

    def close_log(self) -> None:
        """Ends what `open_log` began."""
        if self._log is not None:
            self._log.file.close()
            self._log = None

    def say(self, words: Any) -> None:
        """Prints a text, as it is, or anything that rich can draw."""
        for console in [self.console] + ([self._log] if self._log else []):
            console.print(words, markup=False, soft_wrap=isinstance(words, str))

    def warn(self, sentence: str) -> None:
        """Prints a sentence that a user should not overlook."""
        self.say(f"warning: {sentence}")

    @contextmanager
    def watching(self, title: str, epochs: int, steps: int) -> Iterator[TrainingWatch]:
        """Follows one training of `epochs` times `steps` batches."""
        if not self.console.is_terminal:
            yield TrainingWatch(self, epochs)
            return
        columns = (TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, TextColumn("{task.fields[latest]}"), console=self.console, transient=True) as progress:
            yield TrainingWatch(self, epochs, progress, progress.add_task(title, total=epochs * steps, latest=""))


class TrainingWatch:
    """Follows the train loop: a bar per batch on a terminal, a line every few epochs everywhere."""

    def __init__(self, journal: Journal, epochs: int, bars: Progress | None = None, task: TaskID | None = None):
        self.journal, self.epochs = journal, epochs
        self._bars, self._task = bars, task
        self._done = 0

    def step(self) -> None:
        """A batch is done."""
        if self._bars is not None and self._task is not None:
            self._bars.advance(self._task)

    def epoch(self, learners: Sequence[Learner]) -> None:
        """An epoch is done."""
        self._done += 1
        latest = "   ".join(f"{learner.name}: {measured(learner.history[-1])}" for learner in learners)
        if self._bars is not None and self._task is not None:
            self._bars.update(self._task, latest=latest)
        every = max(1, self.epochs // PLAIN_LINES)
        if self._done % every == 0 or self._done == self.epochs or any(learner.failure for learner in learners):
            self.journal.say(f"  epoch {self._done}/{self.epochs}   {latest}")


def measured(row: dict[str, float]) -> str:
    """One epoch's named losses and accuracies in a few words."""
    losses = " ".join(
        f"{name} {value:.4f}" for name, value in row.items() if name not in ("epoch", "loss") and "accuracy" not in name
    )
    shares = " ".join(
        f"{name.removesuffix('_accuracy')} {value:.2%}" for name, value in row.items() if name.endswith("accuracy")
    )
    return f"{losses}, {shares}"
