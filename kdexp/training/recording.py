"""What a recorded step reads and writes: tensors that stay where they are, and the batches of an epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from kdexp.data.batch import Batch
from kdexp.data.epoch import Epoch
from kdexp.data.split import Split
from kdexp.data.views import Reading
from kdexp.device.cuda_graphs import buffers_in_place
from kdexp.distillation.base import Progress
from kdexp.network.capture import Outputs
from kdexp.training.learner import Learner


@dataclass
class Recording:
    """The tensors that a recorded step of some learners reads and writes."""

    learners: list[Learner]
    batch: Batch
    outputs: dict[Reading, Outputs]
    """The teacher's, by what it read."""
    images: Epoch
    """The images of an epoch's full batches."""
    rates: list[Tensor]
    """Per learner, the learning rates in an epoch [steps, parameter groups]."""
    scheduled: list[dict[str, Tensor]]
    """Per learner, what else its method schedules in an epoch, [steps] by name."""
    traces: list[Tensor]
    """Per learner, what an epoch's steps measured [steps, width]."""
    number: Tensor
    """[1], the next step of the epoch."""
    phases: list[Any] = field(default_factory=list)
    """The methods' phases when the step was recorded."""
    replay: Callable[[], None] | None = None
    images_asked: dict[Reading, int] = field(default_factory=dict)
    """Images that go through the teacher for each reading in one replay, unseen by the host."""

    def fits(self, images: Epoch, readings: Iterable[Reading]) -> bool:
        """Whether an epoch's images have the views that the recorded step reads, no others, and all readings have a place."""
        return self.images.kind == images.kind and set(readings) <= self.outputs.keys()

    def fill(self, batch: Batch, outputs: Mapping[Reading, Outputs]) -> None:
        """Copies a batch and those of the teacher's outputs that it reads to where the learners read them."""
        for part in fields(Batch):
            if isinstance(target := getattr(self.batch, part.name), Tensor):
                target.copy_(getattr(batch, part.name))
        for view, images in self.batch.views.items():
            images.copy_(batch.views[view])
        if self.batch.unlabelled is not None and batch.unlabelled is not None:
            self.batch.unlabelled.index.copy_(batch.unlabelled.index)
            for view, images in self.batch.unlabelled.views.items():
                images.copy_(batch.unlabelled.views[view])
        for reading in outputs:
            theirs = self.outputs[reading]
            theirs.logits.copy_(outputs[reading].logits)
            for name, target in theirs.features.items():
                target.copy_(outputs[reading].features[name])

    def begin(self, images: Epoch, points: Sequence[Progress], step: int) -> None:
        """Copies an epoch's images and learning rates to where the steps from `step` on read them."""
        self.images.copy_(images)
        for learner, target in zip(self.learners, self.rates, strict=True):
            target.copy_(torch.tensor([learner.rates(progress) for progress in points]))
        for learner, targets in zip(self.learners, self.scheduled, strict=True):
            values = [learner.distiller.scheduled(progress) for progress in points]
            for name, target in targets.items():
                target.copy_(torch.tensor([scheduled[name] for scheduled in values]))
        self.number.fill_(step)

    def step(self, learner: Learner, rates: Tensor, scheduled: Mapping[str, Tensor], trace: Tensor, progress: Progress) -> None:
        """One step of one learner on the batch that `fill` copied."""
        now = rates.index_select(0, self.number).unbind(1)
        for group, rate in zip(learner.optimizer.param_groups, now, strict=True):
            group["lr"].copy_(rate[0])
        learner.distiller.now = {name: values.index_select(0, self.number)[0] for name, values in scheduled.items()}
        with buffers_in_place(*learner.changing), learner.stream:
            terms = learner.distiller.update(learner, *learner.reads(self.batch, self.outputs), progress)
            learner.average_weights()
        trace.index_copy_(0, self.number, learner.measure(terms, self.batch.label)[None])


class EpochBatches:
    """The batches of an epoch, fetched ahead unless they are made on the device."""

    def __init__(self, split: Split, images: Epoch, batch_size: int):
        self._split, self.images = split, images
        self._parts = list(images.split(batch_size))
        self._fetched = None if split.static else split.batches_of(images, batch_size)
        self._latest: tuple[int, Batch] | None = None
        self.full = len(images.rows) // batch_size

    def __len__(self) -> int:
        return len(self._parts)

    def get(self, step: int) -> Batch:
        """The batch of a step. Unless batches are made on the device, steps must come in order; the latest may be repeated."""
        if self._fetched is None:
            return self._split.batch(self._parts[step])
        if self._latest is None or self._latest[0] != step:
            self._latest = step, next(self._fetched)
        return self._latest[1]
