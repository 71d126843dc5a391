"""The one train loop: learners trained together, on the same batches and the same teacher's outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from kdexp.data.batch import Batch
from kdexp.data.epoch import NO_UNLABELLED, Epoch, UnlabelledViews
from kdexp.data.split import Split
from kdexp.data.views import VIEWS, WEAK, Reading, View
from kdexp.device import ranks
from kdexp.device.random import RandomStream
from kdexp.distillation.base import Progress
from kdexp.network.capture import Outputs
from kdexp.teacher.frozen import Teacher
from kdexp.training.learner import Learner


class Watch(Protocol):
    """Follows a training."""

    def step(self, learners: Sequence[Learner]) -> None:
        """Called after each batch, with the learners that trained on it."""

    def epoch(self, learners: Sequence[Learner]) -> None:
        """Called after each epoch is recorded, with the learners that took part in it."""


class Watches:
    """Several watches of one training."""

    def __init__(self, *watches: Watch | None):
        """Those that are None are left out."""
        self._watches = [watch for watch in watches if watch is not None]

    def step(self, learners: Sequence[Learner]) -> None:
        """Called after each batch."""
        for watch in self._watches:
            watch.step(learners)

    def epoch(self, learners: Sequence[Learner]) -> None:
        """Called after each epoch is recorded."""
        for watch in self._watches:
            watch.epoch(learners)


@dataclass
class Steps:
    """The steps of a training: each batch is made once, goes through the teacher once, and trains all learners."""

    split: Split
    teacher: Teacher | None
    epochs: int
    batch_size: int
    seed: int
    limit_batches: int | None

    @property
    def count(self) -> int:
        """Steps in an epoch."""
        return self.split.steps(self.batch_size, self.limit_batches)

    def draw(self, epoch: int, views: tuple[View, ...] = (), unlabelled: UnlabelledViews = NO_UNLABELLED) -> Epoch:
        """The images of an epoch (counted from 0), in an order and with views that depend on seed and epoch alone."""
        return self.split.epoch(self.seed, epoch, self.count * self.batch_size, views, unlabelled)

    @property
    def teachers(self) -> list[Teacher]:
        """The teacher, once for each view that is read of labelled and of unlabelled images."""
        return [] if self.teacher is None else list(self.teacher.by_reading.values())

    def views(self, learners: Sequence[Learner]) -> tuple[View, ...]:
        """The views besides `weak` that batches must have: those that students, and teachers without a table, read."""
        methods = [learner.distiller for learner in learners]
        read = {view for method in methods for view in (method.student_view, *method.other_views)}
        read |= self._read_by_teachers(unlabelled=False)
        return tuple(view for view in VIEWS if view in read and view != WEAK)

    def unlabelled(self, learners: Sequence[Learner], epoch: int) -> UnlabelledViews:
        """The views of unlabelled images that an epoch's batches must have.

        Learners that read some agree in how many images there are.
        """
        points = self.points(epoch)
        readers = [learner.distiller for learner in learners if any(map(learner.distiller.reads_unlabelled, points))]
        read = {view for distiller in readers for view in distiller.unlabelled}
        ratios = {distiller.unlabelled_ratio for distiller in readers if distiller.unlabelled}
        assert len(ratios) <= 1, f"learners read {ratios} unlabelled images for each labelled one"
        if readers:
            read |= self._read_by_teachers(unlabelled=True)
        return UnlabelledViews(tuple(view for view in VIEWS if view in read), max(ratios, default=0))

    def _read_by_teachers(self, *, unlabelled: bool) -> set[View]:
        """The views of labelled or of unlabelled images that teachers read which have no table."""
        without = [teacher for teacher in self.teachers if teacher.table is None]
        return {teacher.view for teacher in without if teacher.reading.unlabelled == unlabelled}

    def progress(self, epoch: int, step: int) -> Progress:
        """How far the training is in the middle of a step of an epoch, both counted from 0."""
        return Progress(epoch=epoch + (step + 0.5) / self.count, epochs=self.epochs, step=epoch * self.count + step)

    def points(self, epoch: int) -> list[Progress]:
        """How far the training is in each step of an epoch."""
        return [self.progress(epoch, step) for step in range(self.count)]

    def asked(self, learners: Sequence[Learner], *points: Progress) -> list[Teacher]:
        """The teachers whose outputs some of the learners read in any of the steps."""
        methods = [learner.distiller for learner in learners if any(map(learner.distiller.reads_teacher, points))]
        readings = {reading for method in methods for reading in method.teacher_readings}
        return [teacher for teacher in self.teachers if teacher.reading in readings]

    def outputs(self, batch: Batch, learners: Sequence[Learner], progress: Progress) -> dict[Reading, Outputs]:
        """The outputs that learners read in a step, by what the teacher read; none without a teacher."""
        return {teacher.reading: teacher(batch) for teacher in self.asked(learners, progress)}

    def take(self, learners: Sequence[Learner], epoch: int, images: Epoch, watch: Watch) -> None:
        """Takes the steps of an epoch on its images, as `draw` gave them; a learner that fails stops."""
        for step, whole in enumerate(self.split.batches_of(images, self.batch_size)):
            batch = whole if ranks.count() == 1 else whole.part(ranks.own_part(len(whole.index)))
            progress = self.progress(epoch, step)
            outputs = self.outputs(batch, learners, progress)
            for learner in learners:
                if not learner.failure:
                    learner.step(*learner.reads(batch, outputs), progress)
            watch.step(learners)


def train(
    learners: Sequence[Learner], steps: Steps, *, validation: Split | None, watch: Watch, keep: Callable[[Learner], None]
) -> None:
    """Trains all learners in place; each gets bitwise the weights it would have got alone (CPU, same number of threads).

    A resumed learner joins at its next epoch. One whose loss is not finite stops after that epoch with its `failure` set, one
    that raises an error stops at once; the others go on, and `keep` is called with each of them after each epoch. The host
    waits for the device once per epoch, and once more where the teacher has a table of views.
    """
    for learner in learners:
        learner.train()
    for epoch in range(min(len(learner.history) for learner in learners), steps.epochs):
        active = [learner for learner in learners if len(learner.history) == epoch and not learner.failure]
        if not active:
            continue
        if not ranks.leads():  # it draws other masks than the first one, the same after a resumption
            seed = rank_seed(steps.seed, ranks.number(), epoch)
            for learner in active:
                learner.stream.states = RandomStream(seed, learner.precision.device).states
        images = steps.draw(epoch, steps.views(learners), steps.unlabelled(learners, epoch))
        for teacher in steps.asked(active, *steps.points(epoch)):
            teacher.prepare_epoch(steps.split, images)
        steps.take(active, epoch, images, watch)
        active = [learner for learner in active if not learner.failure]
        if not active:
            continue
        measured = [learner.close_epoch(validation) for learner in active]
        on_host = torch.cat(measured).cpu().split([len(numbers) for numbers in measured])
        for learner, numbers in zip(active, on_host, strict=True):
            learner.record_epoch(numbers, validated=validation is not None)
            if not learner.failure:
                keep(learner)
        watch.epoch(active)


def rank_seed(seed: int, rank: int, epoch: int) -> int:
    """Where the random numbers of a rank other than the first start in an epoch."""
    return ((seed * 4_099 + rank) * 1_000_003 + epoch) % 2**31
