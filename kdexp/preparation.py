"""Learners and their teacher, built from specs and ready to train."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from kdexp.arguments import first_line
from kdexp.config import build
from kdexp.data.dataset import DataUnavailable
from kdexp.data.resident import Split
from kdexp.device import Precision, RandomStream
from kdexp.distillation.base import Distiller, Probe
from kdexp.features import Capture, find_layers, roles_of
from kdexp.learner import Learner
from kdexp.network import Published, Shape, build_network, device_of, sketch_network, start
from kdexp.teacher import Teacher

if TYPE_CHECKING:
    from kdexp.plan import Entry

AUXILIARY_SEED = 2**31
"""Added to the seed for modules that methods build, so that they never move a student's initial weights."""


def check_start(entry: Entry, split: Split, shape: Shape) -> Published | None:
    """The published weights that an entry's training starts from, now on this disk; raises `DataUnavailable`.

    Also where its last batch is a single image that the network can't be trained on, as batch norm can't normalise one vector.
    """
    spec, network = entry.spec, sketch_network(entry.spec.model, shape)
    whole = split.steps(spec.batch_size, spec.limit_batches) * spec.batch_size >= len(split)
    if spec.epochs and whole and (len(split) - 1) % spec.batch_size == 0:
        try:
            with torch.no_grad():
                network.train()(shape.probe(device_of(network), images=1))
        except ValueError as error:
            better = (size for size in range(spec.batch_size + 1, len(split) + 1) if (len(split) - 1) % size)
            way_out = next((f"batch_size={size} leaves none alone" for size in better), "it needs another image")
            raise DataUnavailable(
                f"{entry.role}: the last batch of {len(split)} images is a single one, on which {entry.model} can't be trained "
                f"({first_line(error)}); {way_out}"
            ) from error
    published: Published | None = getattr(network, "published", None)
    if published:
        published.fetch()
    return published


def prepare(
    entries: Sequence[Entry],
    teacher_network: nn.Module | None,
    shape: Shape,
    precision: Precision,
) -> tuple[list[Learner], Teacher | None]:
    """A new learner per entry, and the one teacher that answers for all of them (None if no method uses one)."""
    drafts = [_Draft(entry, shape, precision) for entry in entries]
    teacher = None
    if teacher_network is not None:
        moved = on_device(teacher_network, precision)
        wanted = [name for draft in drafts for name in draft.ask_layers(moved)]
        teacher = Teacher(moved, wanted, shape.probe(precision.device), precision, entries[0].spec.batch_size)
    return [draft.finish(teacher) for draft in drafts], teacher


def on_device(network: nn.Module, precision: Precision) -> nn.Module:
    """The network on the device, its convolutions as they lie in memory there."""
    return network.to(device=precision.device, memory_format=precision.memory_format)  # type: ignore[call-overload]


def classifier_alone(network: nn.Module) -> nn.Module:
    """The network's classifier, after everything else was frozen."""
    name = roles_of(network).classifier
    classifier = find_layers(network, [name])[name]
    network.requires_grad_(False)
    return classifier.requires_grad_(True)


class _Draft:
    """A student whose method does not know yet what it compares."""

    def __init__(self, entry: Entry, shape: Shape, precision: Precision):
        self.entry, self.shape, self.precision = entry, shape, precision
        self.stream = RandomStream(entry.spec.seed, precision.device)
        with self.stream:
            network = build_network(entry.spec.model, shape)
            start(network, entry.checkpoint)
        self.network = on_device(network, precision)
        self.trained = classifier_alone(self.network) if entry.spec.model.get("frozen_backbone") else None
        self.distiller: Distiller = build(entry.spec.method)
        self.layers: list[str] = []

    def ask_layers(self, teacher: nn.Module) -> list[str]:
        """Settles the student's layers and returns the teacher's."""
        if not self.distiller.uses_teacher:
            return []
        self.layers, of_teacher = self.distiller.layers(self.network, teacher)
        return of_teacher

    def finish(self, teacher: Teacher | None) -> Learner:
        """The learner, its method's modules drawn from a random stream of their own."""
        device = self.precision.device
        mine = teacher if self.distiller.uses_teacher else None
        capture = Capture(self.network, self.layers, self.shape.probe(device))
        with RandomStream(self.entry.spec.seed + AUXILIARY_SEED, device):
            self.distiller.setup(Probe(capture.probe, mine.capture.probe if mine else None))
        return Learner(
            name=self.entry.name,
            model=self.network,
            trained=self.trained,
            capture=capture,
            distiller=self.distiller.to(device),
            recipe=build(self.entry.spec.optimizer),
            schedule=build(self.entry.spec.schedule),
            stream=self.stream,
            precision=self.precision,
            deployed=self.distiller.deployed(self.network, mine.model if mine else None),
        )
