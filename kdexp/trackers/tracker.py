"""What a tracker does: begins a run of its own, takes epochs, and ends with the table and the files."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

Row = Mapping[str, Any]

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


class Tracker(Protocol):
    """One tracker. Any method may raise anything; then the run goes on without this tracker."""

    def open(self, config: Mapping[str, Any], name: str, folder: Path, *, group: str, earlier: str) -> Opened:
        """Continues the tracker's run `earlier`, if there is one, or begins a run of that name.

        `folder` is the run's own; `group` is the sweep that it belongs to. Both `group` and `earlier` may be empty.
        """

    def epoch(self, learner: str, row: Mapping[str, float]) -> None:
        """Takes the losses and accuracies of a finished epoch; `row["epoch"]` counts from 1. May keep them until `flush`."""

    def flush(self) -> None:
        """Sends what is kept."""

    def end(self, rows: Sequence[Row], files: Sequence[Path], state: str) -> None:
        """Takes the rows of the table and the run's files, sends everything, and ends the tracker's run.

        `state` is one of `kdexp.store.run_state`; a run that is cut off has neither rows nor files.
        """


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
