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
from kdexp.commands.estimate import Lookalikes, Pace
from kdexp.configuration.compose import Composer
from kdexp.configuration.roles import node_at
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
    shelf = Shelf(experiment)
    table = Table(box=HEAD_RULE, pad_edge=False, padding=0)
    for heading in HEADINGS:
        numeric = heading in ("params", "MACs", "epochs")
        table.add_column(heading, justify="right" if numeric else "left", no_wrap=heading != "method")
    for role in experiment.needed:
        network = sketch_network(node_at(experiment.config, experiment.part(role).model), experiment.shape)
        macs = cost.multiply_adds(network, experiment.shape.probe(device_of(network), images=1))
        entry = experiment.entry(role)
        costs = [f"{cost.parameter_count(network):,}", f"{macs:,}"]
        table.add_row(role, entry.model, *costs, one_line(entry.method), f"{entry.spec.epochs:,}", shelf.state(entry))
    journal.say(table)
    if shelf.doubt:
        journal.say(f"{UNKNOWN}: {shelf.doubt}")
    elif not experiment.dataset.present():
        journal.say(experiment.unread.gap)
    journal.say(f"dry run: nothing was trained or written ({experiment.where})")


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
    doubts: dict[str, None] = {}
    unknown: set[str] = set()
    shelves: dict[Path, Lookalikes] = {}
    for job in jobs:
        experiment = Experiment({**job.config, "dry_run": True}, quiet, session)
        notes |= dict.fromkeys(start_notes(experiment))
        shelf = Shelf(experiment, shelves)
        entries = [experiment.entry(role) for role in experiment.needed]
        new = [entry for entry in entries if entry.spec.key not in learners]
        doubtful = [entry for entry in entries if shelf.may_have(entry)]
        to_train = [entry.role + " (unknown)" * (entry in doubtful) for entry in new if not experiment.has(entry.spec.key)]
        learners |= {entry.spec.key: (experiment, entry) for entry in entries}
        unknown |= {entry.spec.key for entry in doubtful}
        doubts |= dict.fromkeys([shelf.doubt] if shelf.doubt else [])
        own = " ".join(text for text in job.overrides if text not in common)
        table.add_row(str(job.number), one_line(own), ", ".join(to_train) or "nothing")
    for note in notes:
        journal.say(note)
    journal.say(table)
    missing = [(experiment, entry) for key, (experiment, entry) in learners.items() if not experiment.has(key)]
    journal.say(
        f"{len(jobs)} jobs, {len(learners)} distinct learners, {len(missing) - len(unknown)} of them to be trained"
        + (f", {len(unknown)} unknown" if unknown else "")
        + _estimate(missing)
    )
    for doubt in doubts:
        journal.say(f"{UNKNOWN}: {doubt}")
    journal.say("dry run: nothing was trained or written")


UNKNOWN = "unknown learners may already be stored"


class Shelf:
    """Looks up which of an experiment's learners are stored, without reading images.

    `doubt` is the reason why `may_have` was uncertain, if it was. `others` are the look-ups of earlier jobs, by store.
    """

    def __init__(self, experiment: Experiment, others: dict[Path, Lookalikes] | None = None):
        self.experiment, self.doubt = experiment, ""
        self._lookalikes = {} if others is None else others

    def state(self, entry: Entry) -> str:
        """Whether an entry's learner is stored, in words for the user."""
        stored = self.experiment.store.find(entry.spec.key) if not self.experiment.settings.force else None
        if stored is not None:
            return f"stored {stored.result['trained_at']}"
        return "unknown" if self.may_have(entry) else "to be trained"

    def may_have(self, entry: Entry) -> bool:
        """Whether the store has a learner that is this one if its images are those of this data set, which are unknown."""
        gap, root = self.experiment.unread.gap, self.experiment.store.root
        if not gap or self.experiment.settings.force:
            return False
        if root not in self._lookalikes:
            self._lookalikes[root] = Lookalikes(root)
        found = self._lookalikes[root].has(entry.spec)
        self.doubt = gap if found else self.doubt
        return found


def _estimate(missing: Sequence[tuple[Experiment, Entry]]) -> str:
    """The time that training the missing learners one after the other may take, judged by similar ones in the store."""
    if not missing:
        return ""
    paces: dict[Path, Pace] = {}
    times, uncounted = [], False
    for experiment, entry in missing:
        pace = paces.setdefault(experiment.store.root, Pace(experiment.store.root))
        seconds, images = pace.seconds(asdict(entry.spec), 1), _images(experiment, entry)
        uncounted |= seconds is not None and images is None
        times.append(None if seconds is None or images is None else seconds * images)
    known = [seconds for seconds in times if seconds is not None]
    if not known and uncounted:
        return "; how long that takes is not known before the images are read"
    if not known:
        return "; no estimate of the time, since nothing similar is stored"
    unknown = len(missing) - len(known)
    rest = f", not counting {unknown} without a similar one in the store" if unknown else ""
    return f": about {duration(sum(known))}{rest}"


def _images(experiment: Experiment, entry: Entry) -> int | None:
    """Number of training images of an entry's learner; None if it is unknown."""
    fraction = experiment.dataset.student_fraction
    return experiment.unread.images if experiment.part(entry.role).teaches else experiment.unread.student_images(fraction)
