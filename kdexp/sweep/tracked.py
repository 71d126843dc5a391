"""Sends a sweep's table, pictures and page to the trackers of its jobs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kdexp.configuration.settings import entries
from kdexp.store.run_files import JOBS
from kdexp.store.run_state import FAILED, FINISHED, RUNNING
from kdexp.sweep.comparison import Comparison
from kdexp.sweep.read import STILL_RUNNING, Sweep
from kdexp.sweep.table import text
from kdexp.sweep.write import lines_of
from kdexp.trackers.names import CLASSES
from kdexp.trackers.sweeps import send_report
from kdexp.trackers.tracker import Report, Reporter

FILES = ("sweep.csv", "sweep.json", "sweep.md", "report.html", "search.json", "search.csv")
"""Files of a sweep's folder that trackers get, those that exist, next to its pictures."""


def track(comparison: Comparison, sweep: Sweep, folder: Path, journal: Reporter, *, begin: bool) -> None:
    """Sends the report that was written into a sweep's folder; without trackers, and for any other folder, does nothing.

    Unless `begin`, only trackers that have a report of this sweep get the new one.
    """
    configs = [job.config for job in sweep.jobs if job.config]
    names = [name for name in CLASSES if any(name in entries(config.get("logger", [])) for config in configs)]
    if not names or not (folder / JOBS).is_file():
        return
    files = [*(folder / name for name in FILES), *sorted((folder / "pictures").glob("*.png"))]
    report = Report(
        _state(comparison), text(comparison), lines_of(comparison), files=[path for path in files if path.is_file()]
    )
    send_report(folder, names, shared(configs) | {"output_dir": str(_outputs(folder))}, report, journal, begin=begin)


def _outputs(folder: Path) -> Path:
    """The `output_dir` of the sweep in a folder, wherever the command was started that ran it."""
    place = folder.resolve() if ".." in folder.parts else folder.absolute()  # a link may lie in another output_dir
    found, here = place.parents[1], Path.cwd()
    return found.relative_to(here) if found.is_relative_to(here) else found


def _state(comparison: Comparison) -> str:
    if comparison.complete:
        return FINISHED
    return RUNNING if any(job.state == STILL_RUNNING for job in comparison.unfinished) else FAILED


def shared(configs: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The keys that have one value in all configurations, also inside nodes."""
    first, *others = configs
    found: dict[str, Any] = {}
    for name, value in first.items():
        alternatives = [other.get(name) for other in others]
        if all(other == value for other in alternatives):
            found[name] = value
        elif (
            isinstance(value, Mapping)
            and (nodes := [each for each in alternatives if isinstance(each, Mapping)]) == alternatives
        ):
            found[name] = shared([value, *nodes])
    return found
