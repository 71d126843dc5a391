"""The trackers of one run: sends each epoch once, also of reused and resumed learners, and goes on without one that fails."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from kdexp.store.run_state import FAILED, INTERRUPTED
from kdexp.trackers.names import load
from kdexp.trackers.record import Record, record_for
from kdexp.trackers.tracker import Report, Reporter, Row, Tracker, results, shortened, text_of
from kdexp.training.learner import Learner

INTERVAL = 2.0
"""Seconds between two flushes, at least."""

PAUSE = 60.0
"""Seconds after a failure in which a tracker is not opened again: a sweep of short jobs must not wait for it in each."""

FILES = (
    "config.yaml",
    "command.txt",
    "provenance.json",
    "table.csv",
    "table.json",
    "table.md",
    "metrics.csv",
    "curves.png",
    "diagnosis.json",
    "report.html",
)
"""Files of a run folder that trackers get, those that exist."""


class Failures:
    """Which trackers failed in this process: each is warned of once, and left alone for a while."""

    def __init__(self) -> None:
        self._last: dict[str, float] = {}

    def may_open(self, name: str) -> bool:
        """Whether the tracker has not failed lately."""
        return name not in self._last or time.monotonic() - self._last[name] >= PAUSE

    def add(self, name: str, error: Exception, journal: Reporter) -> None:
        """Notes that a tracker has failed with an error that is being handled."""
        journal.note(traceback.format_exc())
        if name not in self._last:
            journal.warn(
                f"{name} failed ({shortened(error)}): this run goes on without it; once {name} works, "
                "the same command sends it every epoch"
            )
        self._last[name] = time.monotonic()


class Tracking:
    """Follows the learners of a run in its trackers; with none of these, it does nothing.

    Every epoch is sent once, whether it was trained now, in a run that this one resumes, or by an earlier command.
    """

    def __init__(self, folder: Path, record: Record, journal: Reporter, failures: Failures):
        self._folder, self._record, self._journal, self._failures = folder, record, journal, failures
        self._trackers: dict[str, Tracker] = {}
        self._sent: dict[str, dict[str, int]] = {}
        """Epochs by tracker and learner, as in the record, which has only those that were flushed."""
        self._flushed = time.monotonic()

    def open(self, name: str, config: Mapping[str, Any]) -> None:
        """Begins or continues the run in the tracker of that name, unless this has failed lately."""
        if not self._failures.may_open(name):
            return
        record = self._record
        try:
            tracker = load(name)
            earlier = record.ids.get(name, "")
            opened = tracker.open(config, record.name, self._folder, group=record.group, earlier=earlier)
        except Exception as error:  # its package may raise anything
            self._failures.add(name, error, self._journal)
            return
        self._trackers[name] = tracker
        record.ids[name] = opened.id
        if not opened.continued:
            record.epochs[name] = {}
        self._sent[name] = dict(record.epochs.setdefault(name, {}))
        self._journal.remark(f"{name}: {opened.hint}")
        self._write_record()

    def step(self, learners: Sequence[Learner]) -> None:
        """Does nothing: trackers get epochs."""

    def epoch(self, learners: Sequence[Learner]) -> None:
        """Sends the last epoch of learners in training, and those before that were not sent yet."""
        for learner in learners:
            self.follow(learner.name, learner.history)

    def follow(self, learner: str, history: Sequence[Mapping[str, float]]) -> None:
        """Sends the epochs of a learner's history that were not sent yet."""
        for name in list(self._trackers):
            sent = self._sent[name]
            rows = history[sent.get(learner, 0) :]
            if rows:
                self._tell(name, partial(_send, learner, rows, sent))
        if self._trackers and time.monotonic() - self._flushed >= INTERVAL:
            self._flush()

    def _flush(self) -> None:
        for name in list(self._trackers):
            if self._tell(name, lambda tracker: tracker.flush()):
                self._record.epochs[name] = dict(self._sent[name])
        self._write_record()
        self._flushed = time.monotonic()

    def end(self, state: str, rows: Sequence[Row] = ()) -> None:
        """Sends the rows of the run's table and its files, and ends it in the trackers."""
        if not self._trackers:
            return
        self._flush()
        files = [path for path in (self._folder / name for name in FILES) if path.is_file()] if rows else []
        report = Report(state, text_of(files, "table.md"), rows, results(rows), files)
        for name in list(self._trackers):
            self._tell(name, lambda tracker: tracker.end(report))
        self._trackers = {}

    def _tell(self, name: str, call: Callable[[Tracker], None]) -> bool:
        """Whether the call of a tracker went well; one that fails is left out from then on."""
        try:
            call(self._trackers[name])
        except Exception as error:  # as above
            del self._trackers[name]
            self._failures.add(name, error, self._journal)
            return False
        return True

    def _write_record(self) -> None:
        with suppress(OSError):  # then a resumed run begins another one
            self._record.write(self._folder)


def _send(learner: str, rows: Sequence[Mapping[str, float]], sent: dict[str, int], tracker: Tracker) -> None:
    for row in rows:
        tracker.epoch(learner, row)
        sent[learner] = int(row["epoch"])


@contextmanager
def tracking(
    names: Sequence[str], config: Mapping[str, Any], folder: Path, journal: Reporter, failures: Failures
) -> Iterator[Tracking]:
    """The trackers of a run in its folder; what is left open inside is ended as interrupted or failed."""
    record = record_for(folder, anew=bool(config["force"])) if names else Record("")
    found = Tracking(folder, record, journal, failures)
    try:
        for name in names:
            found.open(name, config)
        yield found
    except BaseException as stop:
        found.end(FAILED if isinstance(stop, Exception) else INTERRUPTED)
        raise
