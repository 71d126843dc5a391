"""What the jobs of one process share, so that a sweep reads its data and asks its teacher once."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdexp.store.in_use import Claim
from kdexp.teacher.cache import OutputCache

if TYPE_CHECKING:
    pass


class SingleCache:
    """The value that was made last, under its key; the one before is let go first, so that memory does not grow."""

    def __init__(self) -> None:
        self._key: Hashable = None
        self._value: Any = None

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """The value of that key, made anew unless it is the one that was made last."""
        if self._value is None or key != self._key:
            self._value = None
            self._key, self._value = key, make()
        return self._value

    @property
    def value(self) -> Any:
        """The value that was made last, None if none was."""
        return self._value


@dataclass
class Session:
    """The last data set on its device, teachers' outputs for its images, and what became of learners."""

    data: SingleCache = field(default_factory=SingleCache)
    outputs: OutputCache = field(default_factory=OutputCache)
    layers: dict[str, list[str]] = field(default_factory=dict)
    """Which layers of a teacher the jobs of this process read, by its network (`kdexp.experiment.lookahead`)."""
    starts: dict[str, str] = field(default_factory=dict)
    """From which published weights trainings start, by what decides that they can."""
    notes: dict[str, list[str]] = field(default_factory=dict)
    """What a user should know of the checkpoints that were read, by what decides it."""
    trained: set[str] = field(default_factory=set)
    """Keys of the learners that this process has trained and stored."""
    failures: dict[str, str] = field(default_factory=dict)
    """Why the others failed that it tried to train, by key: the same would happen again."""
    claims: dict[Path, Claim] = field(default_factory=dict)
    """What the jobs of this process need of stores, by the store's folder."""

    def claim(self, store: Path) -> Claim:
        """What is needed of the store in that folder."""
        return self.claims.setdefault(store, Claim(store))

    def close(self) -> None:
        """Ends the processes that serve the data set, if there are any, and needs nothing of stores any more."""
        if self.data.value is not None:
            self.data.value.close()
        for claim in self.claims.values():
            claim.release()
        self.claims.clear()
