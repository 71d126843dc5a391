"""The report of a sweep in its trackers, next to the runs of its jobs: one run of its own, whose report is replaced."""

from __future__ import annotations

import hashlib
import traceback
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import Any

from kdexp.store.locks import take_turns
from kdexp.trackers.names import load
from kdexp.trackers.record import Record, ids_inside, record_of_sweep
from kdexp.trackers.tracker import Report, Reporter, shortened

TURNS = "trackers.lock"
"""Held while a report is sent: several workers and commands may end one sweep."""


def send_report(
    folder: Path, names: Sequence[str], config: Mapping[str, Any], report: Report, journal: Reporter, *, begin: bool
) -> None:
    """Sends the report of the sweep in a folder to the trackers that do not have it; one that fails is warned of.

    Unless `begin`, only to those that were sent one before, or should have been.
    """
    digest = _digest(report)
    with ExitStack() as turn:
        with suppress(OSError):
            take_turns(folder / TURNS, turn)
        record = record_of_sweep(folder, anew=bool(config.get("force")))
        for name in names:
            if record.reports.get(name) != digest and (begin or name in record.ids):
                record.ids.setdefault(name, "")
                if _send(name, folder, config, report, record, journal):
                    record.reports[name] = digest
                with suppress(OSError):  # then it is sent again
                    record.write(folder)


def _send(name: str, folder: Path, config: Mapping[str, Any], report: Report, record: Record, journal: Reporter) -> bool:
    """Whether the tracker of that name took the report."""
    try:
        tracker = load(name)
        opened = tracker.open(config, record.name, folder, group=record.group, earlier=record.ids[name])
        record.ids[name] = opened.id
        tracker.end(replace(report, members=ids_inside(folder, name)))
    except Exception as error:  # its package may raise anything
        journal.note(traceback.format_exc())
        sends = f"once {name} works, kdexp-report {quote(str(folder))} sends it"
        journal.warn(f"{name} failed ({shortened(error)}): it lacks the report of this sweep; {sends}")
        return False
    journal.remark(f"{name} has this table, too: {opened.hint}")
    return True


def _digest(report: Report) -> str:
    """Changes with the table and with the set of files, but not with the folder's place."""
    told = [report.state, report.table, *sorted(path.name for path in report.files)]
    return hashlib.sha256("\0".join(told).encode("utf-8", "replace")).hexdigest()
