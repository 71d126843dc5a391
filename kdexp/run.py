"""One job: makes the run folder, obtains the learners, shows and writes what they are worth."""

from __future__ import annotations

import hashlib
import json
import shlex
import time
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from kdexp.arguments import first_line
from kdexp.experiment import Entry, Experiment
from kdexp.journal import Journal
from kdexp.provenance import provenance
from kdexp.report.curves import draw_curves
from kdexp.report.diagnosis import diagnose
from kdexp.report.files import write_history, write_table
from kdexp.report.rows import Row, make_rows
from kdexp.report.table import draw_table


def run(config: DictConfig, overrides: Sequence[str] = (), console: Console | None = None) -> bool:
    """Runs a validated configuration; returns whether every learner finished. Raises `DataUnavailable` before anything."""
    journal = Journal(console)
    experiment = Experiment(config, journal)
    experiment.data  # noqa: B018 - read before there is a run folder
    folder = claim_folder(Path(str(config["output_dir"])).expanduser() / "runs", config)
    journal.open_log(folder / "log.txt")
    try:
        describe_run(folder, config, overrides, experiment)
        journal.say(f"run folder: {folder}")
        entries = experiment.run()
        report(folder, entries, experiment, journal)
    finally:
        journal.close_log()
    return not any(entry.failure for entry in entries)


def claim_folder(runs: Path, config: DictConfig) -> Path:
    """A new folder named by time and a hash of the configuration; never one that another run has."""
    digest = hashlib.sha256(OmegaConf.to_yaml(config).encode()).hexdigest()[:6]
    name = f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{digest}"
    for attempt in range(1000):
        folder = runs / (name if not attempt else f"{name}_{attempt + 1}")
        try:
            folder.mkdir(parents=True, exist_ok=False)
            return folder
        except FileExistsError:
            continue
    raise FileExistsError(f"a thousand runs named {name} under {runs}")


def describe_run(folder: Path, config: DictConfig, overrides: Sequence[str], experiment: Experiment) -> None:
    """Writes what was asked and on what it ran: `config.yaml`, `command.txt`, `provenance.json`."""
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(config))
    (folder / "command.txt").write_text(shlex.join(["kdexp", *overrides]) + "\n")
    (folder / "provenance.json").write_text(json.dumps(provenance(experiment.device), indent=1))


def report(folder: Path, entries: list[Entry], experiment: Experiment, journal: Journal) -> list[Row]:
    """Draws and writes the table and the curves of finished entries."""
    rows = make_rows(entries, experiment)
    journal.say("")
    journal.say(draw_table(rows, experiment, journal.console.width))
    for line in remarks(entries, experiment):
        journal.say(line)
    write_table(folder, rows, experiment)
    write_history(folder, entries)
    draw_curves(folder, entries, journal)
    try:
        for line in diagnose(entries, experiment, folder):
            journal.say(line)
    except RuntimeError as error:  # out of memory, or a method whose losses can't be asked again
        journal.warn(f"no diagnosis of the distilled student: {first_line(error)}")
    return rows


def remarks(entries: list[Entry], experiment: Experiment) -> list[str]:
    """What a reader of the table must know to take it for what it is."""
    lines = [f"{entry.role} failed: {entry.failure}" for entry in entries if entry.failure]
    lines += [_training_only(entry) for entry in entries if entry.stored and entry.stored.result["training_only_parameters"]]
    data, share = experiment.data, experiment.dataset.student_fraction
    if share < 1:
        seen, there_are = len(data.student_train), len(data.train)
        lines.append(f"Students saw {seen} of the teacher's {there_are} images (dataset.student_fraction={share:g}).")
    where = f"{experiment.precision.label} on {experiment.device.type}"
    lines.append(f"Test accuracy on {len(data.test)} images after the last epoch, {where}.")
    lines.append("n = 1: one seed is an anecdote; -m seed=0,1,2,3,4 repeats it.")
    return lines


def _training_only(entry: Entry) -> str:
    assert entry.stored is not None
    extra = entry.stored.result["training_only_parameters"]
    return (
        f"{entry.role} trained {entry.stored.result['parameters'] + extra:,} parameters, {extra:,} of them for training alone."
    )
