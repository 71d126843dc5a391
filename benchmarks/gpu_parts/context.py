"""What a part gets to know, and what it gives back."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]
"""A row of a part's table: texts and numbers by column; one that failed has its reason under `error`."""


@dataclass(frozen=True)
class Item:
    """One measurement: the first columns of its row, and a function that returns the others (or several rows)."""

    labels: Row
    measure: Callable[[], Row | list[Row]]
    replaces: bool = False
    """Whether its rows replace those of the items before."""

    @property
    def name(self) -> str:
        """Its labels in one line."""
        return ", ".join(map(str, self.labels.values()))


@dataclass(frozen=True)
class Context:
    """A call of the benchmark as seen by one of its parts."""

    device: str
    rehearse: bool
    folder: Path
    """Where the results go; a part may keep files of its own in `folder`/NAME."""
    data: str
    """Where CIFAR-100 lies, or is downloaded to."""
    deadline: float
    """The `time.time()` at which the part is cut off."""

    def left(self) -> float:
        """Seconds until the part is cut off."""
        return self.deadline - time.time()


class Skipped(Exception):
    """Raised by a part that can't run here; its message is the reason."""


class CutOff(Exception):
    """Raised by an item whose time was over; its message names what is missing."""
