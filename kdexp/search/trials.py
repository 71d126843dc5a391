"""The trials of a search and their file `search.journal`: a line per event, of which a killed search loses the last at most."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from kdexp.errors import BadFile

RUNNING, FINISHED, PRUNED, FAILED = "running", "finished", "pruned", "failed"


@dataclass(frozen=True)
class Score:
    """What one job of a trial reached on validation images: accuracies after the last epoch, as fractions of 1."""

    student: float
    baseline: float | None
    """None for a method that is the baseline itself, or if the baseline failed."""
    curve: tuple[float, ...]
    """The student's accuracy after each epoch."""


@dataclass
class Trial:
    """One combination of values, trained with every seed of the search unless it was ended early."""

    number: int
    method: str
    words: tuple[str, ...]
    """Overrides that choose its values."""
    scores: dict[int, Score] = field(default_factory=dict)
    """By seed."""
    partial: tuple[float, ...] = ()
    """The student's accuracy after each epoch of the seed in which the trial was pruned."""
    state: str = RUNNING
    reason: str = ""
    """Why it was pruned or failed."""

    @property
    def value(self) -> float | None:
        """Mean validation accuracy of the student over all seeds; None unless the trial finished."""
        return fmean(score.student for score in self.scores.values()) if self.state == FINISHED else None

    @property
    def baseline(self) -> float | None:
        """The same of the baseline."""
        found = [score.baseline for score in self.scores.values()]
        known = [value for value in found if value is not None]
        return fmean(known) if self.state == FINISHED and len(known) == len(found) else None

    @property
    def curves(self) -> list[tuple[float, ...]]:
        """The student's accuracy after each epoch, by position of the seed."""
        return [*(score.curve for score in self.scores.values()), *([self.partial] if self.partial else [])]


class Trials:
    """The trials of a search in order, each change of which is written to the journal first."""

    def __init__(self, path: Path, identity: str):
        self.path = path
        self.identity = identity
        self.all: list[Trial] = []
        self.concluded = False
        """Whether the final training is over."""
        self._length: int | None = None
        """Bytes of the complete lines of an earlier process, until the first line is added to them."""

    @classmethod
    def begin(cls, path: Path, identity: str) -> Trials:
        """A new journal; raises `OSError`."""
        trials = cls(path, identity)
        trials._write({"search": identity})
        return trials

    @classmethod
    def read(cls, path: Path) -> Trials:
        """The journal of an earlier process; raises `OSError`, and `BadFile` for a file that is no journal."""
        whole, newline, _torn = path.read_bytes().rpartition(b"\n")
        try:
            head, *events = [json.loads(line) for line in whole.splitlines()]
            trials = cls(path, str(head["search"]))
            for event in events:
                trials._follow(event)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise BadFile(f"{path} is damaged: it is not the journal of a search") from error
        trials._length = len(whole) + len(newline)
        return trials

    @staticmethod
    def identity_in(path: Path) -> str:
        """The identity of the search with this journal, which is not read as a whole; empty for a damaged one."""
        with suppress(OSError, ValueError, LookupError, TypeError), path.open("rb") as file:
            return str(json.loads(file.readline())["search"])
        return ""

    def of(self, method: str) -> list[Trial]:
        """The trials of one method."""
        return [trial for trial in self.all if trial.method == method]

    @property
    def running(self) -> Trial | None:
        """The trial that has begun and not ended, if there is one."""
        return next((trial for trial in self.all if trial.state == RUNNING), None)

    def start(self, method: str, words: Sequence[str]) -> Trial:
        """A new trial."""
        self._record({"trial": len(self.all), "method": method, "words": list(words)})
        return self.all[-1]

    def add_score(self, trial: Trial, seed: int, score: Score) -> None:
        """What a trial reached with one seed."""
        named = {"student": score.student, "baseline": score.baseline, "curve": list(score.curve)}
        self._record({"trial": trial.number, "seed": seed, **named})

    def end(self, trial: Trial, state: str, reason: str = "", partial: Sequence[float] = ()) -> None:
        """Ends a trial; `partial` is the curve of the seed in which it was pruned."""
        self._record({"trial": trial.number, "state": state, "reason": reason, "partial": list(partial)})

    def conclude(self) -> None:
        """Marks the search as finished, so that the same command starts another one."""
        self._record({"concluded": True})

    def _record(self, event: dict[str, Any]) -> None:
        self._write(event)
        self._follow(event)

    def _write(self, event: dict[str, Any]) -> None:
        """Appends a line, over what a killed process left of its last one."""
        with self.path.open("ab") as file:
            if self._length is not None:
                file.truncate(self._length)
                self._length = None
            file.write(json.dumps(event).encode() + b"\n")

    def _follow(self, event: dict[str, Any]) -> None:
        """Brings the trials up to date with an event."""
        if "concluded" in event:
            self.concluded = True
        elif "method" in event:
            self.all.append(Trial(len(self.all), str(event["method"]), tuple(map(str, event["words"]))))
        elif "seed" in event:
            score = Score(event["student"], event["baseline"], tuple(event["curve"]))
            self.all[event["trial"]].scores[event["seed"]] = score
        else:
            trial = self.all[event["trial"]]
            trial.state, trial.reason, trial.partial = event["state"], event["reason"], tuple(event["partial"])
