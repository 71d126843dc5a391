"""A trial of a search, and what it reached."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import fmean

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
    known: int = 0
    """How many trials, from the first on, had ended before this one was proposed: it depends on the results of no other."""

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
