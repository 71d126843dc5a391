"""The one train loop: a list of learners side by side, on the same batches and the same teacher's outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from kdexp.data.split import Split
from kdexp.teacher.frozen import Teacher
from kdexp.training.graph import RecordedSteps
from kdexp.training.learner import Learner
from kdexp.training.steps import Steps


class Watch(Protocol):
    """Who is told how the training goes."""

    def step(self, learners: Sequence[Learner]) -> None:
        """A batch is done by these learners."""

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
    keep: Callable[[Learner], None],
) -> None:
    """Trains all learners in place; each gets bitwise the weights it would have got alone (CPU, same number of threads).

    A resumed learner joins at its next epoch. One whose loss is not finite stops after that epoch with its `failure` set, one
    that raises an error at once; the others go on, and `keep` is called with each of them. The host waits for the device once
    per epoch, and once more where the teacher has a table of views.
    """
    kind = RecordedSteps if learners[0].precision.graph else Steps
    steps = kind(split, teacher, epochs, batch_size, seed, limit_batches)
    for learner in learners:
        learner.train()
    for epoch in range(min(len(learner.history) for learner in learners), epochs):
        active = [learner for learner in learners if len(learner.history) == epoch and not learner.failure]
        if not active:
            continue
        if teacher is not None:
            teacher.see(split, seed=seed, epoch=epoch, images=limit_batches and limit_batches * batch_size)
        for _ in steps.take(active, epoch):
            watch.step(active)
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
