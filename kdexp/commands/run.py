"""Runs one job: makes the run folder, obtains the learners, writes and prints the results."""

from __future__ import annotations

import hashlib
import json
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from kdexp.configuration.compose import as_yaml
from kdexp.configuration.settings import entries
from kdexp.device.ranks import RankLost
from kdexp.errors import BadFile, ImageLost, Unwritable, first_line
from kdexp.experiment.experiment import Experiment
from kdexp.experiment.journal import Journal
from kdexp.experiment.obtain import obtain
from kdexp.experiment.starts import start_notes
from kdexp.files import at_home, reason, write_whole
from kdexp.report.curves import draw_curves
from kdexp.report.diagnosis import diagnose
from kdexp.report.imbalance import imbalance_remarks
from kdexp.report.page import write_page
from kdexp.report.published import unsourced
from kdexp.report.remarks import remarks
from kdexp.report.rows import Row
from kdexp.report.table import draw_table
from kdexp.report.write import write
from kdexp.store.locks import hold
from kdexp.store.provenance import provenance
from kdexp.store.run_state import ALIVE, FAILED, FINISHED, INTERRUPTED, KILLED, RUNNING, write_state
from kdexp.store.size import size_remark
from kdexp.trackers.tracking import tracking
from kdexp.training.entry import Entry


def run(config: Mapping[str, Any], overrides: Sequence[str] = (), console: Console | None = None) -> bool:
    """Runs a validated configuration; returns whether every learner finished and every file was written.

    Raises `DataUnavailable` and `Unwritable` before anything is trained. `overrides` are written to `command.txt`.
    """
    journal = Journal(console)
    experiment = Experiment(config, journal)
    with closing(experiment.session):
        experiment.make_ready()
        with writing_to(config):
            folder = claim_folder(at_home(str(config["output_dir"])) / "runs", config)
            describe_run(folder, config, overrides, experiment)
        with running(experiment, folder):
            outcome = report(folder, obtain(experiment), experiment, journal)
    return not outcome.reason


@contextmanager
def writing_to(config: Mapping[str, Any]) -> Iterator[None]:
    """Turns an `OSError` into an `Unwritable` that names `output_dir`."""
    try:
        yield
    except OSError as error:
        where = str(config["output_dir"])
        raise Unwritable(f"output_dir={where!r} can't be written: {reason(error)}; output_dir=FOLDER names another") from error


@dataclass(frozen=True)
class Outcome:
    """The rows of a job's table, and the reason why the job failed (empty if it did not)."""

    rows: list[Row]
    reason: str


@contextmanager
def running(experiment: Experiment, folder: Path) -> Iterator[None]:
    """Keeps the log and `status.json` of a run folder up to date while the run goes on inside."""
    journal = experiment.journal
    with ExitStack() as alive:
        journal.open_log(folder / "log.txt")
        alive.callback(journal.close_log)
        with suppress(OSError):
            hold(folder / ALIVE, alive)
        experiment.claim([], folder)
        write_state(folder, RUNNING)
        try:
            journal.say(f"run folder: {folder}")
            for line in unsourced(experiment.config, _typed(folder)):
                journal.say(line)
            for note in start_notes(experiment):
                journal.remark(note)
            names, failures = entries(experiment.settings.logger), experiment.session.trackers
            with tracking(names, experiment.config, folder, journal, failures) as experiment.tracking:
                yield
        except KeyboardInterrupt as stop:
            write_state(folder, KILLED if isinstance(stop, RankLost) else INTERRUPTED)
            raise
        except Exception as error:
            write_state(folder, FAILED, first_line(error))
            raise


def claim_folder(runs: Path, config: Mapping[str, Any]) -> Path:
    """Makes a new folder named by time and a hash of the configuration; never the folder of another run."""
    name = f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{digest_of(config)}"
    for attempt in range(1000):
        folder = runs / (name if not attempt else f"{name}_{attempt + 1}")
        try:
            folder.mkdir(parents=True, exist_ok=False)
            return folder
        except FileExistsError:
            continue
    raise FileExistsError(f"a thousand runs named {name} under {runs}")


def digest_of(config: Mapping[str, Any]) -> str:
    """The hash of a configuration in the name of its folder."""
    return hashlib.sha256(as_yaml(config).encode()).hexdigest()[:6]


def describe_run(folder: Path, config: Mapping[str, Any], overrides: Sequence[str], experiment: Experiment) -> None:
    """Writes `config.yaml`, `command.txt` and `provenance.json` into a run folder."""
    write_whole(folder / "config.yaml", as_yaml(config))
    write_whole(folder / "command.txt", shlex.join(["kdexp", *overrides]) + "\n")
    write_whole(folder / "provenance.json", json.dumps(provenance(experiment.device), indent=1))


def report(
    folder: Path,
    entries: list[Entry],
    experiment: Experiment,
    journal: Journal,
    *,
    brief: bool = False,
    trial: bool = False,
) -> Outcome:
    """Writes the table and the state of the job, then prints the table; adds curves and a diagnosis unless `brief`.

    The table's files are written first, so that an error while printing loses nothing. The table of a search's `trial` has no
    test accuracies.
    """
    overrides = _typed(folder) if experiment.config.get("published") else []
    written = write(folder, entries, experiment, overrides, trial=trial)
    _conclude(folder, entries, written.rows, written.failure)
    journal.say("")
    journal.say(draw_table(written.rows, experiment, journal.console.width))
    notes = written.notes
    if not trial:
        notes = [*remarks(entries, experiment), *imbalance_remarks(written.rows, experiment), *notes]
    for line in notes:
        journal.say(line)
    if not brief and (remark := size_remark(str(experiment.config["store"]))):
        journal.say(remark)
    missing = written.failure or _explain(folder, entries, experiment, journal, brief)
    if not brief and not missing:
        missing = _write_page(folder, written.rows, notes, entries, experiment, journal)
    if missing:
        journal.warn(f"{folder} lacks files: {missing}; every learner is in the store, run the same command to write them")
    outcome = _conclude(folder, entries, written.rows, missing)
    if experiment.tracking:
        experiment.tracking.end(FAILED if outcome.reason else FINISHED, [row.plain() for row in outcome.rows])
    return outcome


def _explain(folder: Path, entries: list[Entry], experiment: Experiment, journal: Journal, brief: bool) -> str:
    """Draws the curves and diagnoses the student, which take a while; returns why files are missing, empty if none are."""
    try:
        if not brief:
            draw_curves(folder, entries, experiment, journal)
        if not brief or experiment.settings.diagnosis == "always":
            print_diagnosis(folder, entries, experiment, journal)
    except OSError as error:
        return reason(error)
    return ""


def _write_page(
    folder: Path, rows: list[Row], notes: list[str], entries: list[Entry], experiment: Experiment, journal: Journal
) -> str:
    """Writes the page; returns why it is missing, empty if it is there."""
    try:
        write_page(folder, rows, notes, entries, experiment)
    except (BadFile, ImageLost) as error:  # test logits or images that were damaged since
        journal.warn(f"no report.html: {error}")
    except OSError as error:
        return reason(error)
    return ""


def _conclude(folder: Path, entries: list[Entry], rows: list[Row], missing: str) -> Outcome:
    """Writes the job's state and returns its outcome; `missing` is the reason why files are missing, if any are."""
    failed = "; ".join(f"{entry.role} failed: {entry.failure}" for entry in entries if entry.failure)
    outcome = Outcome(rows, f"{folder} lacks files: {missing}" if missing else failed)
    write_state(folder, FAILED if outcome.reason else FINISHED, outcome.reason)
    return outcome


def _typed(folder: Path) -> list[str]:
    """The overrides that a run was started with."""
    return shlex.split((folder / "command.txt").read_text("utf-8", "surrogateescape"))[1:]


def print_diagnosis(folder: Path, entries: list[Entry], experiment: Experiment, journal: Journal) -> None:
    """Prints and writes why the distilled student may be no better than its baseline, if it is not."""
    try:
        for line in diagnose(entries, experiment, folder):
            journal.say(line)
    except RuntimeError as error:  # out of memory, or a method whose losses can't be computed again
        journal.warn(f"no diagnosis of the distilled student: {first_line(error)}")
