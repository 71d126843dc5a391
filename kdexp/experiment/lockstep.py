"""Lockstep: learners of several jobs side by side in one loop, one pass over the data and one teacher for all of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cache

from torch import nn

from kdexp.configuration.nodes import build
from kdexp.device.memory import free_memory
from kdexp.experiment.experiment import Experiment
from kdexp.network.build import sketch_network
from kdexp.network.cost import parameter_count
from kdexp.training.entry import Entry
from kdexp.training.sketch import capture_sketch, sketch_method

BYTES_PER_PARAMETER = 24
"""Of a learner between its steps: weights, gradients, two moments of Adam, the best epoch's weights, and one to spare."""

MEMORY_SHARE = 0.5
"""Of what is free, that learners may take."""


def train_together(experiments: Sequence[Experiment], most: int | None) -> None:
    """Trains and stores whatever the experiments' stores lack, `most` learners (None: as memory allows) in one loop.

    What can't be trained is left to its own job, which says why.
    """
    while groups := list(_groups(experiments)):
        for experiment, entries in groups:
            limit = most or affordable(experiment, entries)
            for first in range(0, len(entries), limit):
                company = entries[first : first + limit]
                what = f"{len(company)} learners side by side" if len(company) > 1 else company[0].role
                experiment.journal.headline(f"training {what}, {company[0].spec.epochs} epochs")
                experiment.obtain_entries(company)


def _groups(experiments: Sequence[Experiment]) -> Iterator[tuple[Experiment, list[Entry]]]:
    """Entries that nobody has and whose teachers somebody has, by what one loop shares; the experiment is of the first."""
    lacking = list(_lacking(experiments))
    teachers = {entry.spec.key for experiment, entry in lacking if experiment.part(entry.role).teaches}
    found: dict[str, tuple[Experiment, list[Entry]]] = {}
    loose: dict[str, list[tuple[Experiment, Entry]]] = {}
    waiting = set()
    for experiment, entry in lacking:
        shared, teacher = _shared(experiment, entry), entry.spec.teacher
        sources = {*entry.spec.members, *([teacher] if teacher else [])}
        if sources & teachers:
            waiting.add(shared)
        elif teacher is None and entry.spec.key not in teachers:
            loose.setdefault(shared, []).append((experiment, entry))
        elif all(map(experiment.has, sources)):
            found.setdefault(f"{shared} {teacher}", (experiment, []))[1].append(entry)
    for shared, lone in loose.items():
        # Whoever needs no teacher joins the first company that fits, once that has its teacher.
        if shared not in waiting:
            place = next((place for place in found if place.startswith(f"{shared} ")), f"{shared} None")
            found.setdefault(place, (lone[0][0], []))[1].extend(entry for _, entry in lone)
    yield from found.values()


def _lacking(experiments: Sequence[Experiment]) -> Iterator[tuple[Experiment, Entry]]:
    """Every distinct learner that is neither stored nor known to fail, the teachers' included."""
    met: set[str] = set()
    for experiment in experiments:
        for entry in experiment.lacking():
            key = entry.spec.key
            if key not in met and key not in experiment.session.failures:
                yield experiment, entry
            met.add(key)


def _shared(experiment: Experiment, entry: Entry) -> str:
    spec = entry.spec
    numbers = (spec.seed, spec.epochs, spec.batch_size, spec.limit_batches, spec.precision)
    return json.dumps(
        [spec.data, *numbers, str(experiment.device), experiment.settings.num_threads, experiment.part(entry.role).teaches]
    )


def affordable(experiment: Experiment, entries: Sequence[Entry]) -> int:
    """How many learners as large as the largest of these entries fit into half of the free memory, at least one.

    The entries have one teacher, which the experiment of the first one knows.
    """
    shape, labels = experiment.shape, experiment.split_of(entries[0]).labels
    node, ask = experiment.teacher_node(entries[0].role), cache(capture_sketch)
    teacher = sketch_network(node, shape) if node else None
    models = {json.dumps(entry.spec.model): entry.spec.model for entry in entries}
    students = {name: sketch_network(model, shape) for name, model in models.items()}
    distinct = {json.dumps([entry.spec.model, entry.spec.method]): entry.spec for entry in entries}
    largest = 0
    for spec in distinct.values():
        student, method = students[json.dumps(spec.model)], build(spec.method)
        sketch_method(method, student, teacher if method.uses_teacher else None, labels, spec.batch_size, shape, ask)
        largest = max(largest, _bytes(student, method))
    return max(1, int(MEMORY_SHARE * free_memory(experiment.device) / largest))


def _bytes(student: nn.Module, method: nn.Module) -> int:
    """What a learner takes between its steps, with the modules and memories of its method."""
    buffers = sum(buffer.numel() * buffer.element_size() for buffer in method.buffers())
    return BYTES_PER_PARAMETER * (parameter_count(student) + parameter_count(method)) + buffers
