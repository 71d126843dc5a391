"""One learner of a run."""

from __future__ import annotations

from dataclasses import dataclass

from kdexp.store.spec import LearnerSpec
from kdexp.store.stored import StoredLearner


@dataclass
class Entry:
    """One learner of a run: what was requested, and whether it was found, trained or failed."""

    role: str
    model: str
    method: str
    spec: LearnerSpec
    dataset: str = ""
    checkpoint: str | None = None
    classes: list[str] | None = None
    """The names of the data's classes, where they have any."""
    stored: StoredLearner | None = None
    failure: str = ""
    reused: bool = False
    job: str = ""
    """The job of a sweep that it belongs to, where learners of several jobs train together."""
    optimizer: str = "optimizer"
    """The configuration node of its optimizer."""

    @property
    def name(self) -> str:
        """Its name while it trains."""
        return f"{self.role} {self.job}" if self.job else self.role
