"""Learners and their teacher, built from their specs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from kdexp.configuration.nodes import build
from kdexp.data.batch import Batch
from kdexp.data.shape import Shape
from kdexp.data.split import Split
from kdexp.data.views import VIEWS, Reading
from kdexp.device import ranks
from kdexp.device.memory import free_memory
from kdexp.device.precision import Precision, on_device
from kdexp.device.random import RandomStream
from kdexp.distillation.base import Distiller, Progress, probe_of
from kdexp.errors import DataUnavailable, first_line
from kdexp.network.build import PretrainedWeights, build_network, sketch_network, start
from kdexp.network.capture import Capture
from kdexp.network.footprint import batch_shortage
from kdexp.network.headless import is_headless
from kdexp.network.landmarks import classifier_of
from kdexp.network.whole_batch_norm import share_norms
from kdexp.tasks.imbalance import weights_of_classes
from kdexp.teacher.frozen import WEAKLY, Teacher
from kdexp.training.entry import Entry
from kdexp.training.learner import Learner

AUXILIARY_SEED = 2**31
"""Added to the seed for modules that methods build, so that they never change a student's initial weights."""


def check_start(entry: Entry, split: Split, shape: Shape, teacher: Mapping[str, Any] | None) -> PretrainedWeights | None:
    """The published weights that an entry's training starts from, downloaded; `teacher` is the node of its teacher's network.

    Raises `DataUnavailable` if they can't be downloaded, if a batch does not fit into memory, or if the last batch is a single
    image that the network or the method can't be trained on (batch norm can't normalise a single vector).
    """
    spec = entry.spec
    leaves_one = spec.epochs and split.leaves_one(spec.batch_size, spec.limit_batches)
    if leaves_one and (problem := _problem_with_one_image(entry, shape, teacher)):
        better = (size for size in range(spec.batch_size + 1, len(split) + 1) if (len(split) - 1) % size)
        fix = next((f"batch_size={size} avoids that" for size in better), "it needs another image")
        raise DataUnavailable(f"{entry.role}: the last batch has a single image (of {len(split):,}), on which {problem}; {fix}")
    network = sketch_network(spec.model, shape)
    if spec.epochs and (shortage := _batch_shortage(entry, network, split, shape)):
        raise DataUnavailable(f"{entry.role}: {shortage}")
    published: PretrainedWeights | None = getattr(network, "published", None)
    if published:
        published.fetch()
    return published


def _batch_shortage(entry: Entry, network: nn.Module, split: Split, shape: Shape) -> str:
    """Why the largest batch of an entry's training does not fit into the free memory, or an empty string.

    Empty for compiled and for partly frozen networks, too: what their forward passes keep can't be counted.
    """
    spec, free = entry.spec, free_memory(split.labels.device)
    if "compiled" in spec.precision or spec.model.get("frozen_backbone"):
        return ""
    copies = 2 + getattr(build(spec.optimizer), "moments", 0) + bool(spec.averaging)
    width = 2 if spec.precision.startswith("bf16") else 4
    images = split.largest_batch(spec.batch_size) * build(spec.method).images_per_label
    return batch_shortage(network, shape, images, copies, free, width)


def _problem_with_one_image(entry: Entry, shape: Shape, teacher: Mapping[str, Any] | None) -> str:
    """Why the network or its method can't be trained on a single image, or an empty string.

    Found out by one step of an untrained learner. No rule about batch norms does as well: whether one sees a single vector
    depends on the size of its maps, and a method may have its own.
    """
    precision = Precision("fp32", torch.device("cpu"))
    model = entry.spec.model | ({"weights": None} if entry.spec.model.get("weights") else {})
    untrained = replace(entry, checkpoint=None, spec=replace(entry.spec, model=model))
    with RandomStream(0, precision.device):
        teacher_network = build_network(teacher, shape) if teacher else None
    (learner,), frozen = prepare([untrained], teacher_network, shape, precision, torch.arange(shape.num_classes))
    image, zero = shape.probe(precision.device, images=1), torch.zeros(1, dtype=torch.long)
    learner.train()
    problem = f"{entry.model} can't be trained"
    try:
        with learner.stream:
            with torch.no_grad():
                teacher_outputs = frozen.capture(image) if frozen else None
                learner.model(image)
            problem += f" by {entry.method}"
            batch = Batch(image, zero, zero, views=dict.fromkeys(VIEWS, image))
            learner.distiller.update(learner, batch, teacher_outputs, Progress(0, entry.spec.epochs, 0))
    except ValueError as error:
        return f"{problem} ({first_line(error)})"
    except Exception:  # not caused by the single image: the training will report it
        return ""
    return ""


def prepare(
    entries: Sequence[Entry],
    teacher_network: nn.Module | None,
    shape: Shape,
    precision: Precision,
    labels: Tensor,
    unlabelled: int = 1,
) -> tuple[list[Learner], Teacher | None]:
    """A new learner per entry, and the teacher that they share (None without its network), for what is read first.

    `labels` [N] are those of the training images, `unlabelled` is the number of images without one.
    """
    drafts = [_Draft(entry, shape, precision) for entry in entries]
    by_reading: dict[Reading, Teacher] = {}
    for draft in drafts:
        if not draft.distiller.uses_teacher:
            draft.choose_layers(None)
    if teacher_network is not None:
        moved = on_device(teacher_network, precision)
        layers: dict[Reading, list[str]] = {}
        for draft in drafts:
            if draft.distiller.uses_teacher:
                names = draft.choose_layers(moved)
                for reading in draft.distiller.teacher_readings:
                    layers.setdefault(reading, []).extend(names)
        size = ranks.largest_part(entries[0].spec.batch_size)
        ratio = max(draft.distiller.unlabelled_ratio for draft in drafts)
        for reading, names in (layers or {WEAKLY: []}).items():
            most = size * ratio if reading.unlabelled else size
            by_reading[reading] = Teacher(moved, names, shape.probe(precision.device), precision, most, reading)
            by_reading[reading].by_reading = by_reading
    learners = [draft.finish(by_reading.get(Reading(draft.distiller.teacher_view)), labels, unlabelled) for draft in drafts]
    return learners, next(iter(by_reading.values()), None)


def classifier_alone(network: nn.Module) -> nn.Module:
    """The network's classifier; freezes everything else."""
    network.requires_grad_(False)
    return classifier_of(network).requires_grad_(True)


class _Draft:
    """A student whose method has not been set up, since that needs the teacher."""

    def __init__(self, entry: Entry, shape: Shape, precision: Precision):
        self.entry, self.shape, self.precision = entry, shape, precision
        self.stream = RandomStream(entry.spec.seed, precision.device)
        with self.stream:
            network = build_network(entry.spec.model, shape)
            fresh = start(network, entry.checkpoint, entry.classes, entry.role, entry.spec.model)
        self.untrained = is_headless(network) or (bool(fresh) and not entry.spec.epochs)
        self.network = on_device(network, precision)
        self.trained = classifier_alone(self.network) if entry.spec.model.get("frozen_backbone") else None
        self.average = build(entry.spec.averaging).of(self.network) if entry.spec.averaging else None
        self.distiller: Distiller = build(entry.spec.method)
        self.layers: list[str] = []

    def choose_layers(self, teacher: nn.Module | None) -> list[str]:
        """The names of the teacher's layers that the method reads; the student's are kept in `layers`."""
        self.layers, teacher_layers = self.distiller.layers(self.network, teacher)
        return teacher_layers

    def finish(self, teacher: Teacher | None, labels: Tensor, unlabelled: int) -> Learner:
        """The learner. Its method's modules are initialised from their own random stream.

        Parts of the student's network that are not deployed are not trained either.
        """
        spec, device = self.entry.spec, self.precision.device
        teacher_capture = teacher.capture if teacher and self.distiller.uses_teacher else None
        capture = Capture(self.network, self.layers, self.shape.probe(device), compiled=self.precision.compile)
        self.distiller.weigh_classes(weights_of_classes(spec.class_weights, labels, self.shape.num_classes))
        with RandomStream(spec.seed + AUXILIARY_SEED, device):
            self.distiller.setup(probe_of(capture, teacher_capture, labels, spec.batch_size, self.shape, unlabelled))
        if ranks.count() > 1:
            share_norms(self.network, self.distiller)
        deployed = self.distiller.deployed(self.network, teacher_capture.model if teacher_capture else None)
        for unused in set(self.network.parameters()) - set(deployed.parameters()):
            unused.requires_grad_(False)
        return Learner(
            name=self.entry.name,
            model=self.network,
            trained=self.trained,
            average=self.average,
            capture=capture,
            distiller=self.distiller.to(device),
            recipe=build(self.entry.spec.optimizer),
            schedule=build(self.entry.spec.schedule),
            stream=self.stream,
            precision=self.precision,
            deployed=deployed,
            untrained=self.untrained,
        )
