"""What a tracker does: begins a run of its own, takes epochs, and ends with the table and the files."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from kdexp.errors import first_line

Row = Mapping[str, Any]

LONGEST = 200
"""Characters of a tracker's error."""

PROJECT = "kdexp"
"""Name of the project or experiment that runs belong to, unless an environment variable of the tracker's names another."""


class Opened(NamedTuple):
    """A tracker's run that was begun or continued."""

    id: str
    """What the tracker calls it."""
    hint: str
    """How to look at it, the same for all runs of a sweep."""
    continued: bool = False
    """Whether it is the run that was asked for, with the epochs that it has."""


@dataclass(frozen=True)
class Report:
    """What a tracker gets at the end of a run or a sweep; a run that is cut off has a state only."""

    state: str
    """One of `kdexp.store.run_state`."""
    table: str = ""
    """In Markdown."""
    rows: Sequence[Row] = ()
    """The lines of the table."""
    numbers: Mapping[str, float] = field(default_factory=dict)
    """Numbers of a run's table under their tags."""
    files: Sequence[Path] = ()
    """Files in the folder that the tracker was opened with, or in folders inside it."""
    members: Sequence[str] = ()
    """What the tracker calls the runs of a sweep's jobs."""


class Reporter(Protocol):
    """What is needed of a journal."""

    def remark(self, sentence: str) -> None:
        """Prints a sentence once."""

    def warn(self, sentence: str) -> None:
        """Prints a warning."""

    def note(self, text: str) -> None:
        """Writes to the log only."""


class Tracker(Protocol):
    """One tracker. Any method may raise anything; then the run goes on without this tracker."""

    def open(self, config: Mapping[str, Any], name: str, folder: Path, *, group: str, earlier: str) -> Opened:
        """Continues the tracker's run `earlier`, if there is one, or begins a run of that name.

        `folder` is the run's own; `group` is the sweep that it belongs to. Both `group` and `earlier` may be empty. A sweep
        has a run of its own, whose group is its name; it gets a report and no epochs, perhaps more than once.
        """

    def epoch(self, learner: str, row: Mapping[str, float]) -> None:
        """Takes the losses and accuracies of a finished epoch; `row["epoch"]` counts from 1. May keep them until `flush`."""

    def flush(self) -> None:
        """Sends what is kept."""

    def end(self, report: Report) -> None:
        """Sends everything, the report last, and ends the tracker's run."""


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as dotted keys and plain values; the name of a group has the chosen option as its value.

    Published numbers are left out.
    """
    choices = {name: option for name, option in config.get("choices", {}).items() if option is not None and name != "_global_"}
    return choices | dict(_flat({name: value for name, value in config.items() if name not in ("choices", "published")}))


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def terms(learner: str, row: Mapping[str, float]) -> dict[str, float]:
    """The numbers of an epoch under their tags, such as `distilled/ce`."""
    return {f"{learner}/{name}": value for name, value in row.items() if name != "epoch"}


def results(rows: Sequence[Row]) -> dict[str, float]:
    """The numbers of a table under their tags, such as `distilled/test_top1`."""
    return {
        f"{row['role']}/{name}": float(value)
        for row in rows
        for name, value in row.items()
        if isinstance(value, int | float) and math.isfinite(value) and name != "n"
    }


def text_of(files: Sequence[Path], name: str) -> str:
    """The text of the file of that name; empty if it is not among them."""
    return next((path.read_text("utf-8") for path in files if path.name == name), "")


def pictures(files: Sequence[Path]) -> list[Path]:
    """The pictures among the files."""
    return [path for path in files if path.suffix == ".png"]


def shortened(error: Exception) -> str:
    """A tracker's error in a line."""
    text = f"{type(error).__name__}: {first_line(error)}"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
