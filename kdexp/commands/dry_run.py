"""What a command would do: its choices, its networks, what the store already holds. Writes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from kdexp.commands.command import PlannedJob
from kdexp.commands.estimate import Pace
from kdexp.configuration.roles import node_at, option
from kdexp.errors import DataUnavailable
from kdexp.experiment.experiment import Experiment
from kdexp.experiment.journal import Journal
from kdexp.experiment.session import Session
from kdexp.experiment.starts import start_notes
from kdexp.network import cost
from kdexp.network.build import device_of, sketch_network
from kdexp.report.table import duration
from kdexp.text.characters import one_line
from kdexp.training.entry import Entry


def preview(config: Mapping[str, Any], console: Console | None = None) -> None:
    """Prints one job of a dry run."""
    journal = Journal(console)
    experiment = Experiment(config, journal)
    shown = OmegaConf.create({name: value for name, value in experiment.config.items() if name != "choices"})
    for line in OmegaConf.to_yaml(shown).rstrip().split("\n"):
        journal.say(line)
    for note in start_notes(experiment):
        journal.say(note)
    unreadable = _unreadable(experiment)
    table = Table("role", "model", "parameters", "MACs", "method", "epochs", "store", box=SIMPLE_HEAD, pad_edge=False)
    for role in experiment.needed:
        path = experiment.part(role).model
        network = sketch_network(node_at(experiment.config, path), experiment.shape)
        macs = cost.multiply_adds(network, experiment.shape.probe(device_of(network), images=1))
        costs = [f"{cost.parameter_count(network):,}", f"{macs:,}"]
        table.add_row(
            role,
            *([option(experiment.config, path), *costs, "", "", "unknown"] if unreadable else _state(role, experiment, costs)),
        )
    journal.say(table)
    if unreadable:
        journal.say(f"what the store holds is unknown: {unreadable}")
    journal.say(f"dry run: nothing was trained or written ({experiment.precision.label} on {experiment.device.type})")


def preview_jobs(jobs: Sequence[PlannedJob], console: Console | None = None) -> None:
    """Prints the jobs of a multirun, which of their learners the store holds, and how long the others may take."""
    journal, session = Journal(console), Session()
    quiet = Journal(journal.console, quiet=True)
    common = set.intersection(*(set(job.overrides) for job in jobs))
    table = Table("job", "overrides", "to be trained", box=SIMPLE_HEAD, pad_edge=False)
    wanted: dict[str, tuple[Experiment, Entry]] = {}
    notes: dict[str, None] = {}
    for job in jobs:
        experiment = Experiment(job.config, quiet, session)
        notes |= dict.fromkeys(start_notes(experiment))
        if unreadable := _unreadable(experiment):
            journal.say(f"what the store holds is unknown: {unreadable}")
            return
        entries = [experiment.entry(role) for role in experiment.needed]
        lacking = [entry.role for entry in entries if entry.spec.key not in wanted and not experiment.has(entry.spec.key)]
        wanted |= {entry.spec.key: (experiment, entry) for entry in entries}
        own = " ".join(text for text in job.overrides if text not in common)
        table.add_row(str(job.number), one_line(own), ", ".join(lacking) or "nothing")
    for note in notes:
        journal.say(note)
    journal.say(table)
    missing = [(experiment, entry) for key, (experiment, entry) in wanted.items() if not experiment.has(key)]
    journal.say(f"{len(jobs)} jobs, {len(wanted)} distinct learners, {len(missing)} of them to be trained{_time(missing)}")
    journal.say("dry run: nothing was trained or written")


def _time(missing: Sequence[tuple[Experiment, Entry]]) -> str:
    """How long that may take, one after the other, as far as the store has seen the like."""
    paces: dict[Path, Pace] = {}
    known = []
    for experiment, entry in missing:
        pace = paces.setdefault(experiment.store.root, Pace(experiment.store.root))
        known.append(pace.seconds(asdict(entry.spec), len(experiment.split_of(entry))))
    told = [seconds for seconds in known if seconds is not None]
    if not missing:
        return ""
    unknown = len(missing) - len(told)
    rest = f", without {unknown} whose like was never trained here" if told and unknown else ""
    return f": about {duration(sum(told))}{rest}" if told else "; how long that takes is known once their like was trained here"


def _unreadable(experiment: Experiment) -> str:
    """Why the store can't be asked, since the images are part of every key; empty if it can."""
    if not experiment.dataset.present():
        return "the data are not here yet; a run would download them"
    try:
        experiment.data  # noqa: B018
    except DataUnavailable as error:
        return str(error)
    finally:
        experiment.session.close()
    return ""


def _state(role: str, experiment: Experiment, costs: list[str]) -> list[str]:
    entry = experiment.entry(role)
    stored = experiment.store.find(entry.spec.key)
    reused = stored is not None and not experiment.settings.force
    state = f"there since {stored.result['trained_at']}" if stored and reused else "to be trained"
    return [entry.model, *costs, one_line(entry.method), str(entry.spec.epochs), state]
