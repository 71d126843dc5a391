"""Lockstep: learners of several jobs trained together, with one pass over the data and one teacher for all of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

from torch import nn

from kdexp.configuration.nodes import build
from kdexp.device.memory import free_memory
from kdexp.experiment.experiment import Experiment
from kdexp.experiment.obtain import train_group
from kdexp.network.build import sketch_network
from kdexp.network.cost import parameter_count
from kdexp.training.entry import Entry
from kdexp.training.sketch import capture_sketch, sketch_method

BYTES_PER_PARAMETER = 24
"""Of a learner between its steps: weights, gradients, two moments of Adam, the best epoch's weights, and one to spare."""

MEMORY_SHARE = 0.5
"""Share of the free memory that learners may take."""


class Loop(NamedTuple):
    """What learners must agree on to train in one loop, apart from the teacher."""

    data: str
    seed: int
    epochs: int
    batch_size: int
    limit_batches: int | None
    precision: str
    device: str
    threads: int
    teaches: bool


def train_together(experiments: Sequence[Experiment], most: int | None) -> None:
    """Trains and stores the learners missing from the experiments' stores, up to `most` (None: as memory allows) in one loop.

    Learners that can't be trained are left to their own jobs, which report why.
    """
    while groups := list(_groups(experiments)):
        for experiment, entries in groups:
            limit = most or affordable(experiment, entries)
            for first in range(0, len(entries), limit):
                group = entries[first : first + limit]
                title = f"{len(group)} learners together" if len(group) > 1 else group[0].role
                experiment.journal.headline(f"training {title}, {group[0].spec.epochs} epochs")
                with experiment.lock_missing(group) as missing:
                    if missing:
                        train_group(missing, experiment)


def _groups(experiments: Sequence[Experiment]) -> Iterator[tuple[Experiment, list[Entry]]]:
    """Missing learners whose sources are stored, in groups that can train together, each with the experiment of its first.

    Learners without a teacher join the first group that fits, as soon as that has its teacher.
    """
    missing = list(_missing(experiments))
    missing_teachers = {entry.spec.key for experiment, entry in missing if experiment.part(entry.role).teaches}
    groups: dict[tuple[Loop, str | None], tuple[Experiment, list[Entry]]] = {}
    without_teacher: dict[Loop, tuple[Experiment, list[Entry]]] = {}
    waiting = set()
    for experiment, entry in missing:
        loop, teacher = _loop(experiment, entry), entry.spec.teacher
        sources = {*entry.spec.members, *([teacher] if teacher else [])}
        if sources & missing_teachers:
            waiting.add(loop)
        elif teacher is None and entry.spec.key not in missing_teachers:
            without_teacher.setdefault(loop, (experiment, []))[1].append(entry)
        elif all(map(experiment.has, sources)):
            groups.setdefault((loop, teacher), (experiment, []))[1].append(entry)
    for loop, (experiment, entries) in without_teacher.items():
        if loop not in waiting:
            fitting = next((key for key in groups if key[0] == loop), (loop, None))
            groups.setdefault(fitting, (experiment, []))[1].extend(entries)
    yield from groups.values()


def _missing(experiments: Sequence[Experiment]) -> Iterator[tuple[Experiment, Entry]]:
    """Every distinct learner, teachers included, that is neither stored nor has failed."""
    seen: set[str] = set()
    for experiment in experiments:
        for entry in experiment.missing():
            key = entry.spec.key
            if key not in seen and key not in experiment.session.failures:
                yield experiment, entry
            seen.add(key)


def _loop(experiment: Experiment, entry: Entry) -> Loop:
    spec = entry.spec
    return Loop(
        json.dumps(spec.data),
        spec.seed,
        spec.epochs,
        spec.batch_size,
        spec.limit_batches,
        spec.precision,
        str(experiment.device),
        experiment.threads,
        experiment.part(entry.role).teaches,
    )


def affordable(experiment: Experiment, entries: Sequence[Entry]) -> int:
    """How many learners, each as large as the largest of these, fit into half of the free memory; at least one.

    The entries share a teacher; the experiment is that of the first one.
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
    """Memory of a learner between its steps, including the modules and buffers of its method."""
    buffers = sum(buffer.numel() * buffer.element_size() for buffer in method.buffers())
    return BYTES_PER_PARAMETER * (parameter_count(student) + parameter_count(method)) + buffers
