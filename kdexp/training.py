"""The one train loop: a list of learners side by side, on the same batches and the same teacher's outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from kdexp.data.resident import Split
from kdexp.distillation.base import Progress
from kdexp.learner import Learner
from kdexp.teacher import Teacher


class Watch(Protocol):
    """Who is told how the training goes."""

    def step(self) -> None:
        """A batch is done."""

    def epoch(self, learners: Sequence[Learner]) -> None:
        """An epoch is done and recorded by the learners that took part in it."""


def train(
    learners: Sequence[Learner],
    split: Split,
    *,
    teacher: Teacher | None,
    validation: Split | None,
    epochs: int,
    batch_size: int,
    seed: int,
    limit_batches: int | None,
    watch: Watch,
) -> None:
    """Trains all learners in place; each gets bitwise the weights it would have got alone (CPU, same number of threads).

    A learner whose loss is not finite stops after that epoch with its `failure` set; the others go on. The host waits for
    the device once per epoch.
    """
    active = list(learners)
    steps = split.steps(batch_size, limit_batches)
    for learner in active:
        learner.train()
    for epoch in range(epochs):
        for step, batch in enumerate(split.batches(batch_size, seed=seed, epoch=epoch, limit=limit_batches)):
            progress = Progress(epoch=epoch + (step + 0.5) / steps, epochs=epochs, step=epoch * steps + step)
            said = None if teacher is None else teacher(batch)
            for learner in active:
                learner.step(batch, said, progress)
            watch.step()
        measured = [learner.close_epoch(validation) for learner in active]
        on_host = torch.cat(measured).cpu().split([len(numbers) for numbers in measured])
        for learner, numbers in zip(active, on_host, strict=True):
            learner.record_epoch(numbers, validated=validation is not None)
        watch.epoch(active)
        active = [learner for learner in active if not learner.failure]
        if not active:
            return
