"""Shows what a command would do: its configuration, networks, and stored learners. Writes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from textwrap import wrap
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from kdexp.commands.command import PlannedJob
from kdexp.commands.differences import different_options, different_values
from kdexp.commands.estimate import Pace
from kdexp.configuration.compose import Composer
from kdexp.configuration.roles import node_at, option
from kdexp.errors import DataUnavailable
from kdexp.experiment.experiment import Experiment
from kdexp.experiment.journal import Journal
from kdexp.experiment.session import Session
from kdexp.experiment.starts import start_notes
from kdexp.network import cost
from kdexp.network.build import device_of, sketch_network
from kdexp.report.table import HEAD_RULE
from kdexp.text.characters import one_line
from kdexp.text.numbers import duration
from kdexp.training.entry import Entry

HEADINGS = ("role", "model", "params", "MACs", "method", "epochs", "store")
HEADINGS_OF_JOBS = ("job", "overrides", "to be trained")


def preview(config: Mapping[str, Any], console: Console | None = None, composer: Composer | None = None) -> None:
    """Prints the dry run of a single job; `composer` is the one that composed it (None: a new one)."""
    journal = Journal(console)
    experiment = Experiment(config, journal)
    for line in _differing(config, composer or Composer(), journal.console.width):
        journal.say(line)
    for note in start_notes(experiment):
        journal.say(note)
    unreadable = _unreadable(experiment)
    table = Table(box=HEAD_RULE, pad_edge=False, padding=0)
    for heading in HEADINGS:
        numeric = heading in ("params", "MACs", "epochs")
        table.add_column(heading, justify="right" if numeric else "left", no_wrap=heading != "method")
    for role in experiment.needed:
        path = experiment.part(role).model
        network = sketch_network(node_at(experiment.config, path), experiment.shape)
        macs = cost.multiply_adds(network, experiment.shape.probe(device_of(network), images=1))
        costs = [f"{cost.parameter_count(network):,}", f"{macs:,}"]
        unknown = [option(experiment.config, path), *costs, "", "", "unknown"]
        table.add_row(role, *(unknown if unreadable else _state(role, experiment, costs)))
    journal.say(table)
    if unreadable:
        journal.say(f"what the store holds is unknown: {unreadable}")
    journal.say(f"dry run: nothing was trained or written ({experiment.precision.label} on {experiment.device.type})")


def _differing(config: Mapping[str, Any], composer: Composer, width: int) -> Iterator[str]:
    """Lines on what is not as by default."""
    for name, words in (("options", different_options(config, composer)), ("values", different_values(config, composer))):
        text = " ".join(map(one_line, words)) or "as by default"
        start, indent = f"{name + ':':<9}", " " * 9
        yield from wrap(
            text, width, initial_indent=start, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        )
    yield "Everything else is as by default; --cfg job instead of dry_run=true shows every key."


def preview_jobs(jobs: Sequence[PlannedJob], console: Console | None = None) -> None:
    """Prints the dry run of a multirun: its jobs, the learners to train, and an estimate of the time."""
    journal, session = Journal(console), Session()
    quiet = Journal(journal.console, quiet=True)
    common = set.intersection(*(set(job.overrides) for job in jobs))
    table = Table(*HEADINGS_OF_JOBS, box=SIMPLE_HEAD, pad_edge=False)
    learners: dict[str, tuple[Experiment, Entry]] = {}
    notes: dict[str, None] = {}
    for job in jobs:
        experiment = Experiment(job.config, quiet, session)
        notes |= dict.fromkeys(start_notes(experiment))
        if unreadable := _unreadable(experiment):
            journal.say(f"what the store holds is unknown: {unreadable}")
            return
        entries = [experiment.entry(role) for role in experiment.needed]
        new = [entry for entry in entries if entry.spec.key not in learners]
        to_train = [entry.role for entry in new if not experiment.has(entry.spec.key)]
        learners |= {entry.spec.key: (experiment, entry) for entry in entries}
        own = " ".join(text for text in job.overrides if text not in common)
        table.add_row(str(job.number), one_line(own), ", ".join(to_train) or "nothing")
    for note in notes:
        journal.say(note)
    journal.say(table)
    missing = [(experiment, entry) for key, (experiment, entry) in learners.items() if not experiment.has(key)]
    journal.say(
        f"{len(jobs)} jobs, {len(learners)} distinct learners, {len(missing)} of them to be trained{_estimate(missing)}"
    )
    journal.say("dry run: nothing was trained or written")


def _estimate(missing: Sequence[tuple[Experiment, Entry]]) -> str:
    """The time that training the missing learners one after the other may take, judged by similar ones in the store."""
    if not missing:
        return ""
    paces: dict[Path, Pace] = {}
    times = []
    for experiment, entry in missing:
        pace = paces.setdefault(experiment.store.root, Pace(experiment.store.root))
        times.append(pace.seconds(asdict(entry.spec), len(experiment.split_of(entry))))
    known = [seconds for seconds in times if seconds is not None]
    if not known:
        return "; no estimate of the time, since nothing similar is stored"
    unknown = len(missing) - len(known)
    rest = f", not counting {unknown} without a similar one in the store" if unknown else ""
    return f": about {duration(sum(known))}{rest}"


def _unreadable(experiment: Experiment) -> str:
    """Why the store can't be searched, since every key depends on the images; empty if it can."""
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
    state = f"stored {stored.result['trained_at']}" if stored and reused else "to be trained"
    return [entry.model, *costs, one_line(entry.method), f"{entry.spec.epochs:,}", state]
