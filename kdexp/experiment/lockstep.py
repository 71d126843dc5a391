"""Lockstep: learners of several jobs trained together, with one pass over the data and one teacher for all of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from torch import nn

from kdexp.configuration.nodes import build
from kdexp.device.memory import free_memory
from kdexp.distillation.base import Distiller
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
    pretrains: bool
    strong_view: str
    unlabelled: str
    """The images of a folder without classes."""
    ratio: int
    """Unlabelled images for each labelled one; learners that read none (0) join those that do."""

    def together(self, other: Loop) -> Loop | None:
        """The loop of learners of both; None if they don't agree."""
        if self._replace(ratio=0) != other._replace(ratio=0) or (self.ratio and other.ratio and self.ratio != other.ratio):
            return None
        return self._replace(ratio=self.ratio or other.ratio)


@dataclass
class Group:
    """Learners that train together, with the experiment of the first one."""

    experiment: Experiment
    loop: Loop
    teacher: str | None
    entries: list[Entry]

    def admits(self, loop: Loop, entry: Entry) -> bool:
        """Takes the entry in, if it can train together with these."""
        both = self.loop.together(loop)
        if both is None or entry.spec.teacher not in (None, self.teacher):
            return False
        self.loop = both
        self.entries.append(entry)
        return True


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
    own = [(entry.spec.key, experiment.part(entry.role)) for experiment, entry in missing]
    missing_first = {key for key, part in own if part.teaches or part.pretrains}
    ready: list[tuple[Experiment, Loop, Entry]] = []
    without_teacher: list[tuple[Experiment, Loop, Entry]] = []
    waiting = set()
    for experiment, entry in missing:
        loop, teacher = _loop(experiment, entry), entry.spec.teacher
        sources = entry.spec.depends_on
        if missing_first.intersection(sources):
            waiting.add(loop)
        elif all(map(experiment.has, sources)):
            joins = teacher is None and entry.spec.key not in missing_first
            (without_teacher if joins else ready).append((experiment, loop, entry))
    groups: list[Group] = []
    for experiment, loop, entry in ready:
        _join([group for group in groups if group.teacher == entry.spec.teacher], groups, experiment, loop, entry)
    for experiment, loop, entry in without_teacher:
        if not any(loop.together(other) for other in waiting):
            _join(groups, groups, experiment, loop, entry)
    yield from ((group.experiment, group.entries) for group in groups)


def _join(candidates: Sequence[Group], groups: list[Group], experiment: Experiment, loop: Loop, entry: Entry) -> None:
    """Puts an entry into the first of these groups that admits it, or into a new one."""
    if not any(group.admits(loop, entry) for group in candidates):
        groups.append(Group(experiment, loop, entry.spec.teacher, [entry]))


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
    method: Distiller = build(spec.method)
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
        experiment.part(entry.role).pretrains,
        json.dumps(experiment.dataset.strong_view),
        experiment.data.unlabelled,
        method.unlabelled_ratio if method.unlabelled else 0,
    )


def affordable(experiment: Experiment, entries: Sequence[Entry]) -> int:
    """How many learners, each as large as the largest of these, fit into half of the free memory; at least one.

    The entries share a teacher; the experiment is that of the first one.
    """
    shape, split = experiment.shape, experiment.split_of(entries[0])
    node, ask = experiment.teacher_node(entries[0].role), cache(capture_sketch)
    teacher = sketch_network(node, shape) if node else None
    models = {json.dumps(entry.spec.model): entry.spec.model for entry in entries}
    students = {name: sketch_network(model, shape) for name, model in models.items()}
    distinct = {json.dumps([entry.spec.model, entry.spec.method]): entry.spec for entry in entries}
    largest = 0
    for spec in distinct.values():
        student, method = students[json.dumps(spec.model)], build(spec.method)
        taught_by, images = teacher if method.uses_teacher else None, split.unlabelled_images
        sketch_method(method, student, taught_by, split.labels, spec.batch_size, shape, ask, images)
        largest = max(largest, _bytes(student, method))
    return max(1, int(MEMORY_SHARE * free_memory(experiment.device) / largest))


def _bytes(student: nn.Module, method: nn.Module) -> int:
    """Memory of a learner between its steps, including the modules and buffers of its method."""
    buffers = sum(buffer.numel() * buffer.element_size() for buffer in method.buffers())
    return BYTES_PER_PARAMETER * (parameter_count(student) + parameter_count(method)) + buffers
