"""What a method sees and may use: networks' outputs before training, the training's progress, and the learner."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from kdexp.data.shape import Shape
from kdexp.network.capture import Capture, Outputs
from kdexp.network.landmarks import classifier_of, has_landmarks

Terms = dict[str, Tensor]


@dataclass(frozen=True)
class Probe:
    """What a method sees before training: both networks' outputs on one small batch, in evaluation mode, and the data's sizes.

    When only shapes are checked, `labels` is a stand-in with one image per class.
    """

    student: Outputs
    teacher: Outputs | None
    labels: Tensor
    """Labels [N] of the student's training images, in the order of `Batch.index`."""
    batch_size: int
    """Images in a batch; the last batch of an epoch may be smaller."""
    shape: Shape
    classify: Callable[[Tensor], Tensor] | None = None
    """The frozen teacher's classifier, from pooled vectors [N, D] to logits [N, K]; None if it has no landmarks."""
    unlabelled: int = 0
    """Number of unlabelled images, which `Unlabelled.index` counts; 1 if only shapes are checked."""


@dataclass(frozen=True)
class Progress:
    """Training progress: `epoch` runs from 0 to `epochs`, measured at the middle of the step; `step` counts from 0."""

    epoch: float
    epochs: int
    step: int

    def ramp(self, epochs: int) -> float:
        """Warm-up factor: n/`epochs` throughout epoch n (counted from 1), and 1 after `epochs` epochs."""
        return min((int(self.epoch) + 1) / epochs, 1.0) if epochs else 1.0


class Trainee(Protocol):
    """The part of a learner that a method's `update` may use."""

    def forward(self, image: Tensor) -> Outputs:
        """Returns the student's outputs for `image` [N, C, H, W]."""

    def ask(self, network: nn.Module, image: Tensor) -> Tensor:
        """Returns the logits [N, K] of another network that the method trains."""

    def forward_all(self, images: Sequence[Tensor], *, joint: bool, interleaved: bool = False) -> list[Outputs]:
        """Returns the student's outputs for each of these batches of images, the labelled one first.

        They go through the network in one pass (`joint`), or in passes of their own, of which the first alone changes the
        running statistics of batch norms; with `interleaved`, each of these has some images of the first batch.
        """

    def ask_average(self, image: Tensor) -> Tensor:
        """Returns the logits [N, K] of the moving average of the student's weights, without gradient.

        It answers in training mode, with the statistics of the batch, and keeps its running ones. A method that asks it
        declares `needs_average`.
        """

    def forward_aside(self, image: Tensor) -> Outputs:
        """Returns the student's outputs for `image`, in a pass that changes no running statistics of batch norms."""

    def forward_frozen(self, image: Tensor) -> Outputs:
        """Returns the student's outputs for `image` with gradients for its classifier alone.

        All before the classifier is in evaluation mode: without dropout, and with batch norms that use and keep their running
        statistics.
        """

    def exactly(self) -> AbstractContextManager[None]:
        """Inside, networks compute in fp32, whatever the run's precision."""

    def note(self, **measures: Tensor) -> None:
        """Adds scalars of this step to the learner's history that are no part of the objective."""

    def descend(self, terms: Terms) -> None:
        """Takes one optimizer step on the sum of the terms."""


def probe_of(
    student: Capture, teacher: Capture | None, labels: Tensor, batch_size: int, shape: Shape, unlabelled: int = 1
) -> Probe:
    """Returns the probe for a method between these two networks."""
    classify = classifier_of(teacher.model) if teacher and has_landmarks(teacher.model) else None
    return Probe(student.probe, teacher.probe if teacher else None, labels, batch_size, shape, classify, unlabelled)
