"""What a run prints: progress bars on a terminal, plain lines elsewhere, and everything in the run's log."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from kdexp.files import reason
from kdexp.store.spec import LearnerSpec
from kdexp.teacher.lookup import Lookup, StoredOutputs, size_words
from kdexp.text.characters import one_line
from kdexp.text.console import Screen
from kdexp.text.numbers import count
from kdexp.training.learner import Learner

MOST_BARS = 6

PLAIN_LINES = 10
"""Lines per training in a log, roughly."""


class Journal:
    """Writes to the console and, once there is a run folder, to the log.

    A text is one sentence on one line: control characters and line breaks, which only names in it can contain, are escaped. A
    quiet journal, used for sweeps, prints only headlines, remarks and warnings.
    """

    def __init__(self, console: Console | None = None, *, quiet: bool = False):
        self.quiet = quiet
        self.console = console or Screen()
        self.after_epoch: Callable[[Sequence[Learner]], None] | None = None
        """Called with the learners after each epoch of a training, which it ends by raising a `BaseException`."""
        self._log: Console | None = None
        self._remarks: set[str] = set()

    def open_log(self, path: Path) -> None:
        """Also writes to this file from now on; warns if that is impossible."""
        try:
            self._log = Screen(path.open("w", encoding="utf-8"), width=200)
        except OSError as error:
            self.warn(f"no log: {path} can't be written ({reason(error)})")

    def close_log(self) -> None:
        """Closes the log, if there is one."""
        if self._log is not None:
            self._log.file.close()
            self._log = None

    def say(self, text: Any) -> None:
        """Logs a sentence, or anything that rich can draw, and prints it unless the journal is quiet."""
        self._write(text)
        if not self.quiet:
            _put(text, self.console)

    def headline(self, text: Any) -> None:
        """Logs and prints, even if the journal is quiet."""
        self._write(text)
        _put(text, self.console)

    def result(self, text: str, number: int) -> None:
        """Prints how a job or a trial ended, as a headline; others see it if this process is a worker."""
        self.headline(text)

    def aside(self, text: str) -> None:
        """Prints a headline that other processes have no use for."""
        self.headline(text)

    def remark(self, sentence: str) -> None:
        """Logs and prints a sentence, even if the journal is quiet; a quiet one prints the same sentence only once."""
        if self.quiet and sentence in self._remarks:
            self._write(sentence)
        else:
            self._remarks.add(sentence)
            self.headline(sentence)

    def warn(self, sentence: str) -> None:
        """Remarks on something that a user should not overlook."""
        self.remark(f"warning: {sentence}")

    def warn_once(self, sentence: str) -> None:
        """Warns, unless it has given the same warning before."""
        if f"warning: {sentence}" not in self._remarks:
            self.warn(sentence)

    def followed(self, learners: Sequence[Learner], epochs: int) -> None:
        """Called before the first epoch of a training and after each; a worker of a sweep reports these to others."""

    def note(self, text: str) -> None:
        """Writes a text of any number of lines to the log only."""
        for line in text.splitlines():
            self._write(line)

    def _write(self, text: Any) -> None:
        if self._log is None:
            return
        try:
            _put(text, self._log)
            self._log.file.flush()
        except OSError as error:
            with suppress(OSError):
                self._log.file.close()
            self._log = None
            self.warn(f"the log ends here: {reason(error)}")

    @contextmanager
    def watching(self, learners: Sequence[Learner], epochs: int, steps: int) -> Iterator[TrainingWatch]:
        """Follows one training of `epochs` times `steps` batches, with a bar per learner on a terminal."""
        self.followed(learners, epochs)
        if not self.console.is_terminal:
            yield TrainingWatch(self, epochs)
            return
        latest = TextColumn("{task.fields[latest]}", markup=False)
        name, epoch = (TextColumn(text, markup=False) for text in ("{task.description}", "epoch {task.fields[epoch]}"))
        columns = (name, BarColumn(16), epoch, TimeRemainingColumn(), latest)
        with Progress(*columns, console=self.console, transient=True) as bars:
            yield TrainingWatch(self, epochs, bars, _tasks(bars, learners, epochs, steps))


def _put(text: Any, console: Console) -> None:
    if isinstance(text, str):
        console.print(one_line(text), markup=False, soft_wrap=True)
    else:
        console.print(text, markup=False)


def _tasks(bars: Progress, learners: Sequence[Learner], epochs: int, steps: int) -> dict[str, TaskID]:
    """A bar per learner, or one for all of them if there are many."""
    done = [len(learner.history) * steps for learner in learners]
    epoch = _current_epoch(learners, epochs)
    if len(learners) > MOST_BARS:
        total, name = len(learners) * epochs * steps, f"{len(learners)} learners"
        task = bars.add_task(name, total=total, completed=sum(done), epoch=epoch, latest="")
        return {learner.name: task for learner in learners}
    return {
        learner.name: bars.add_task(learner.name, total=epochs * steps, completed=completed, epoch=epoch, latest="")
        for learner, completed in zip(learners, done, strict=True)
    }


def _current_epoch(learners: Sequence[Learner], epochs: int) -> str:
    """The epoch that learners trained together are in, counted from 1, and the number of all."""
    return f"{min(len(learners[0].history) + 1, epochs):,}/{epochs:,}"


class TrainingWatch:
    """Follows the train loop: bars on a terminal, and a line per learner every few epochs everywhere."""

    def __init__(self, journal: Journal, epochs: int, bars: Progress | None = None, tasks: Mapping[str, TaskID] | None = None):
        self.journal, self.epochs = journal, epochs
        self._bars, self._tasks = bars, tasks or {}

    def step(self, learners: Sequence[Learner]) -> None:
        """Advances the bars by a batch."""
        if self._bars is not None:
            for learner in learners:
                self._bars.advance(self._tasks[learner.name])

    def epoch(self, learners: Sequence[Learner]) -> None:
        """Shows the latest numbers of each learner, and logs them every few epochs."""
        self.journal.followed(learners, self.epochs)
        done = len(learners[0].history)
        last = done == self.epochs or any(learner.failure for learner in learners)
        due = last or done % max(1, self.epochs // PLAIN_LINES) == 0
        for learner in learners:
            numbers = measured(learner.history[-1])
            if self._bars is not None:
                epoch = _current_epoch(learners, self.epochs)
                self._bars.update(self._tasks[learner.name], epoch=epoch, latest=one_line(numbers))
            if due:
                write = self.journal.note if self._bars is not None and not last else self.journal.say
                write(f"  epoch {done}/{self.epochs}  {learner.name}: {numbers}")
        if self.journal.after_epoch is not None:
            self.journal.after_epoch(learners)


def measured(row: dict[str, float]) -> str:
    """One epoch's losses and accuracies with their names, in one line."""
    losses = [f"{n} {v:.4f}" for n, v in row.items() if n not in ("epoch", "loss") and not n.endswith("accuracy")]
    shares = [f"{n.removesuffix('_accuracy')} {100 * v:.1f} %" for n, v in row.items() if n.endswith("accuracy")]
    return " ".join(losses + shares)


def training_words(names: str, spec: LearnerSpec, batches: int, images: int, *, repeats: bool = False) -> str:
    """Says what is trained: epochs, batches per epoch, and how many of a split's images these have, or how often one."""
    if spec.members:
        return f"{names}: the mean of {len(spec.members)} members"
    if not spec.epochs:
        if spec.model.get("weights"):
            return f"{names}: as published"
        return f"{names}: as in its checkpoint" if spec.model.get("checkpoint") else f"{names}: left untrained"
    shown = batches * spec.batch_size
    of_all = count(images, "image") if shown >= images else f"{shown:,} of {count(images, 'image')}"
    if repeats:
        of_all = f"{shown:,} times one of {count(images, 'labelled image')}"
    return f"training {names}: {count(spec.epochs, 'epoch')} of {count(batches, 'batch', 'batches')} ({of_all})"


HOW = {"memory": "cached by an earlier job", "disk": "read from the store", "compute": "computed once and cached"}


def lookup_words(lookup: Lookup, images: int, kind: str = "image", *, full_epochs: bool) -> str:
    """Says where a teacher's outputs for so many images come from; epochs that are not full show only some of these."""
    of_kind = f" of {kind}s" if kind != "image" else ""
    if lookup.kind == "live":
        return f"teacher: runs on every batch{of_kind}, since {lookup.reason}"
    if lookup.kind == "views":
        return f"teacher's outputs: computed once per view{of_kind}, since {lookup.reason} ({size_words(lookup.sizes)} at most)"
    which = count(images, kind) if full_epochs else f"the {kind}s that are used, of {images:,}"
    return f"teacher's outputs: {HOW[lookup.kind]} for {which}, since {lookup.reason} ({size_words(lookup.sizes)})"


def stored_words(stored: StoredOutputs) -> str:
    """Says which of a teacher's outputs were stored, and why."""
    sizes = size_words(stored.sizes)
    return f"teacher's outputs: stored for later runs, since computing them took {stored.seconds:.3g} s ({sizes})"
