"""The trials of a search and their file `search.journal`: a line per event; a killed process loses its last one at most."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from kdexp.errors import BadFile
from kdexp.search.trial import RUNNING, Score, Trial
from kdexp.store.locks import take_turns


class Trials:
    """The trials of a search in order, each change of which is written to the journal first. Several processes may write."""

    def __init__(self, path: Path):
        self.path = path
        self.identity = ""
        self.parallel = 1
        """How many trials may run at the same time."""
        self.all: list[Trial] = []
        self.concluded = False
        """Whether the search is over."""
        self.stopped = ""
        """Why it ended without a final training, if it did."""
        self._length = 0
        """Bytes of the complete lines that were read or written."""
        self._in_turn = False

    @classmethod
    def begin(cls, path: Path, identity: str) -> Trials:
        """A new journal; raises `OSError`."""
        trials = cls(path)
        path.touch()
        trials._record({"search": identity})
        return trials

    @classmethod
    def read(cls, path: Path) -> Trials:
        """The journal of other processes; raises `OSError`, and `BadFile` for a file that is no journal."""
        trials = cls(path)
        trials.refresh()
        if not trials.identity:
            raise _damaged(path)
        return trials

    def refresh(self) -> None:
        """Reads what other processes have written since; raises `OSError` and `BadFile`."""
        with self.path.open("rb") as file:
            file.seek(self._length)
            whole, newline, _torn = file.read().rpartition(b"\n")
        try:
            for line in whole.splitlines():
                self._follow(json.loads(line))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise _damaged(self.path) from error
        self._length += len(whole) + len(newline)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Keeps other processes from writing until the end of the block, which begins with all that they have written."""
        if self._in_turn:
            yield
            return
        with ExitStack() as until:
            take_turns(self.path.with_suffix(".lock"), until)
            until.callback(setattr, self, "_in_turn", False)
            self._in_turn = True
            self.refresh()
            yield

    @staticmethod
    def identity_in(path: Path) -> str:
        """The identity of the search with this journal, which is not read as a whole; empty for a damaged one."""
        with suppress(OSError, ValueError, LookupError, TypeError), path.open("rb") as file:
            return str(json.loads(file.readline())["search"])
        return ""

    def of(self, method: str) -> list[Trial]:
        """The trials of one method."""
        return [trial for trial in self.all if trial.method == method]

    def known_to(self, trial: Trial) -> list[Trial]:
        """Those that had ended before a trial began, whatever else has ended since."""
        return [one for one in self.of(trial.method) if one.number < trial.known]

    @property
    def running(self) -> list[Trial]:
        """The trials that have begun and not ended."""
        return [trial for trial in self.all if trial.state == RUNNING]

    @property
    def ended(self) -> int:
        """How many trials have ended."""
        return len(self.all) - len(self.running)

    @property
    def known_to_next(self) -> int:
        """How many trials the next one knows: all but those that may run next to it, whether they do or not."""
        return max(0, len(self.all) + 1 - self.parallel)

    def as_known_to_next(self, method: str) -> list[Trial]:
        """One method's trials without the results that the next one does not know; which of these are there is chance."""
        known = self.known_to_next
        return [one if one.number < known else Trial(one.number, one.method, one.words) for one in self.of(method)]

    def allow(self, parallel: int) -> None:
        """Sets how many trials may run at the same time, from the next one on."""
        with self.turn():
            if parallel != self.parallel:
                self._record({"parallel": parallel})

    def start(self, method: str, words: Sequence[str]) -> Trial:
        """A new trial, which may only begin once those that it knows have ended."""
        with self.turn():
            event = {"trial": len(self.all), "method": method, "words": list(words), "known": self.known_to_next}
            self._record(event)
            return self.all[-1]

    def add_score(self, trial: Trial, seed: int, score: Score) -> None:
        """What a trial reached with one seed."""
        named = {"student": score.student, "baseline": score.baseline, "curve": list(score.curve)}
        self._record({"trial": trial.number, "seed": seed, **named})

    def end(self, trial: Trial, state: str, reason: str = "", partial: Sequence[float] = ()) -> None:
        """Ends a trial; `partial` is the curve of the seed in which it was pruned."""
        self._record({"trial": trial.number, "state": state, "reason": reason, "partial": list(partial)})

    def conclude(self, why: str = "") -> None:
        """Marks the search as over, so that the same command starts another one; `why` if it has no final training."""
        self._record({"concluded": True, "why": why})

    def _record(self, event: dict[str, Any]) -> None:
        """Appends a line, over what a killed process left of its last one."""
        with self.turn():
            line = json.dumps(event).encode() + b"\n"
            with self.path.open("ab") as file:
                file.truncate(self._length)
                file.write(line)
            self._length += len(line)
            self._follow(event)

    def _follow(self, event: dict[str, Any]) -> None:
        """Brings the trials up to date with an event."""
        if "search" in event:
            self.identity = str(event["search"])
        elif "concluded" in event:
            self.concluded, self.stopped = True, str(event.get("why", ""))
        elif "parallel" in event:
            self.parallel = int(event["parallel"])
        elif "method" in event:
            known = int(event.get("known", len(self.all)))
            self.all.append(Trial(len(self.all), str(event["method"]), tuple(map(str, event["words"])), known=known))
        elif "seed" in event:
            score = Score(event["student"], event["baseline"], tuple(event["curve"]))
            self.all[event["trial"]].scores[event["seed"]] = score
        else:
            trial = self.all[event["trial"]]
            trial.state, trial.reason, trial.partial = event["state"], event["reason"], tuple(event["partial"])


def _damaged(path: Path) -> BadFile:
    return BadFile(f"{path} is damaged: it is not the journal of a search")
