"""What the watch over a sweep needs of those who start its workers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from kdexp.queue.roster import WorkerState

LAST_WORDS = 400
"""Characters of the output of a worker that failed to start."""


def last_words(output: Path) -> str:
    """How what a worker has printed to a file ends; empty if it has printed nothing."""
    with suppress(OSError):
        return output.read_text("utf-8", "replace").strip()[-LAST_WORDS:]
    return ""


class Crew(Protocol):
    """Starts the workers of a sweep, and replaces those that died."""

    @property
    def detaches(self) -> str:
        """What an interrupted user reads if the workers go on without this process; empty if they end with it."""

    def tick(self, left: int, live: Sequence[WorkerState]) -> list[str]:
        """Starts workers that are missing for so many jobs, given those that run; returns sentences on what happened."""

    @property
    def over(self) -> bool:
        """Whether no worker of this crew runs or will be started."""

    def stop(self) -> None:
        """Ends the workers as Ctrl-C does, and waits for them; does nothing if they go on without this process."""

    def leave(self) -> None:
        """Called when no job is left: waits for workers that end with this process."""


class Onlookers:
    """The crew of a process that only watches, while another one starts the workers."""

    detaches = ""

    def __init__(self) -> None:
        self._live = True

    def tick(self, left: int, live: Sequence[WorkerState]) -> list[str]:
        """Notes whether any worker runs."""
        self._live = bool(live)
        return []

    @property
    def over(self) -> bool:
        """Whether no worker runs."""
        return not self._live

    def stop(self) -> None:
        """Leaves the workers to the process that started them."""

    def leave(self) -> None:
        """Leaves them, too."""
