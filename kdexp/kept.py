"""What the jobs of one process share, so that a sweep reads its data and asks its teacher once."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any


class Last:
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


@dataclass
class Kept:
    """The last data set on its device, the last teacher's outputs for its images, and what became of learners."""

    data: Last = field(default_factory=Last)
    outputs: Last = field(default_factory=Last)
    starts: dict[str, str] = field(default_factory=dict)
    """From which published weights trainings start, by what decides that they can."""
    trained: set[str] = field(default_factory=set)
    """Keys of the learners that this process has trained and stored."""
    failures: dict[str, str] = field(default_factory=dict)
    """Why the others failed that it tried to train, by key: the same would happen again."""
