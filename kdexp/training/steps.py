"""The steps of a training, one after the other, on the batches that all learners share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kdexp.data.batch import Batch
from kdexp.data.split import Split
from kdexp.distillation.base import Progress
from kdexp.network.capture import Outputs
from kdexp.teacher.frozen import Teacher
from kdexp.training.learner import Learner


@dataclass
class Steps:
    """Each batch is made once, answered by the teacher once, and trained on by all learners that have not failed."""

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

    def progress(self, epoch: int, step: int) -> Progress:
        """Where the training is in the middle of a step of an epoch, both counted from 0."""
        return Progress(epoch=epoch + (step + 0.5) / self.count, epochs=self.epochs, step=epoch * self.count + step)

    def take(self, learners: Sequence[Learner], epoch: int) -> Iterator[None]:
        """Takes the steps of an epoch; what it yields after each is nothing."""
        batches = self.split.batches(self.batch_size, seed=self.seed, epoch=epoch, limit=self.limit_batches)
        for step, batch in enumerate(batches):
            said = self.ask(batch)
            for learner in learners:
                if not learner.failure:
                    learner.step(batch, said, self.progress(epoch, step))
            yield

    def ask(self, batch: Batch) -> Outputs | None:
        """What the teacher says, if there is one."""
        return None if self.teacher is None else self.teacher(batch)
