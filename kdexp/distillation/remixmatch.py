"""ReMixMatch (Berthelot et al. 2020, arXiv 1911.09785)."""

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdexp.configuration.arguments import Fraction, Positive, Range, Weight
from kdexp.data.views import STRONG, STRONG2, WEAK
from kdexp.distillation.base import Trainee
from kdexp.distillation.mixing import MixPer, Passes, label_targets, mix_up, sharpen
from kdexp.distillation.semi_supervised import Ramped, unlabelled_of
from kdexp.network.landmarks import landmarks_of

NOT_ZERO = 1e-6
"""Added to both shares of a class before they are divided, as in the authors' code."""


class ReMixMatch(Ramped):
    """MixMatch with aligned guesses, strong views, and the images' rotation to tell.

    The guess for an unlabelled image is the prediction for its weak view, times the ratio of each class's share of the labels
    to its mean prediction so far, sharpened. It is the target of three views in mixup, all with cross-entropy, and of the first
    strong view as it is (`anchor_weight`). A linear layer on the pooled vector tells by how many quarter turns that view was
    rotated (`rotation_weight`, from the start).
    """

    label = "ReMixMatch"
    tempered = True
    capturable = True
    unlabelled = (WEAK, STRONG, STRONG2)
    class_shares: Tensor

    def __init__(
        self,
        *,
        unlabelled_ratio: Passes,
        anchor_weight: Weight,
        rotation_weight: Weight,
        beta: Positive,
        mix_per: MixPer,
        momentum: Fraction,
        window: Annotated[int, Range(at_least=1, within=(1, 2**14))] | None,
        **shared,
    ):
        super().__init__(unlabelled_ratio=unlabelled_ratio, **shared)
        self.anchor_weight = anchor_weight
        self.rotation_weight = rotation_weight
        self.beta = beta
        self.mix_per: MixPer = mix_per
        self.momentum = momentum
        self.window = window

    def layers(self, student, teacher):
        self._pooled = landmarks_of(student).pooled if self.rotation_weight else ""
        return [self._pooled] if self._pooled else [], []

    def setup(self, probe):
        classes = probe.shape.num_classes
        of_each = torch.full(probe.labels.shape, 1 / len(probe.labels), device=probe.labels.device)
        shares = torch.zeros(classes, device=probe.labels.device).index_add_(0, probe.labels, of_each)
        self.register_buffer("class_shares", shares, persistent=False)
        self.predicted = Window(self.window, classes) if self.window else RunningMean(self.momentum, classes)
        if self.rotation_weight:
            self.rotations = nn.Linear(probe.student.features[self._pooled][0].numel(), 4)

    def update(self, learner, batch, teacher, progress):
        unlabelled = unlabelled_of(batch)
        weak, strong, strong2 = (unlabelled.views[view] for view in self.unlabelled)
        guessed, labelled = self.guess(learner, weak), len(batch.label)
        targets = torch.cat([label_targets(batch.label, guessed), *[guessed] * 3])
        images, targets = mix_up(torch.cat([batch.image, strong, strong2, weak]), targets, self.beta, self.mix_per)
        passes = learner.forward_all(images.split(labelled), joint=False, interleaved=True)
        logits = torch.cat([outputs.logits for outputs in passes])
        terms, ramp = {}, self.now["ramp"]
        if self.ce_weight:
            terms["ce"] = self.ce_weight * F.cross_entropy(logits[:labelled], targets[:labelled])
        terms["mixed"] = self.weight * ramp * F.cross_entropy(logits[labelled:], targets[labelled:])
        if self.anchor_weight:
            terms["anchor"] = self.anchor_weight * ramp * F.cross_entropy(learner.forward_aside(strong).logits, guessed)
        if self.rotation_weight:
            terms["rotation"] = self.rotation_weight * self.rotation_loss(learner, strong)
        learner.descend(terms)
        return terms

    @torch.no_grad()
    def guess(self, learner: Trainee, weak: Tensor) -> Tensor:
        """The targets [M, K] of unlabelled images, from their weak view."""
        predictions = learner.forward_aside(weak).logits.softmax(1)
        expected = self.predicted(predictions.mean(0))
        aligned = predictions * (self.class_shares + NOT_ZERO) / (expected + NOT_ZERO)
        return sharpen(aligned / aligned.sum(1, keepdim=True), self.temperature)

    def rotation_loss(self, learner: Trainee, image: Tensor) -> Tensor:
        """The cross-entropy of telling by how many quarter turns images [M, C, H, H] were rotated, which is drawn."""
        turns = torch.randint(4, (len(image),), device=image.device)
        features = learner.forward_aside(rotate(image, turns)).features[self._pooled]
        return F.cross_entropy(self.rotations(features.flatten(1)), turns)

    def weighted(self):
        return [*super().weighted(), (self.anchor_weight, "anchor"), (self.rotation_weight, "rotation")]


class RunningMean(nn.Module):
    """A moving average of vectors [K], from the first one on; it takes in each vector before it is asked."""

    mean: Tensor

    def __init__(self, momentum: float, size: int):
        super().__init__()
        self.momentum = momentum
        self.register_buffer("mean", torch.full((size,), -1.0))

    def forward(self, vector: Tensor) -> Tensor:
        moved = self.momentum * self.mean + (1 - self.momentum) * vector
        self.mean = torch.where(self.mean < 0, vector, moved)
        return self.mean


class Window(nn.Module):
    """The mean of the last `count` vectors [K] before the one at hand, uniform where there were fewer."""

    last: Tensor

    def __init__(self, count: int, size: int):
        super().__init__()
        self.register_buffer("last", torch.full((count, size), 1 / size))

    def forward(self, vector: Tensor) -> Tensor:
        mean = self.last.mean(0)
        self.last = torch.cat([self.last[1:], vector[None]])
        return mean


def rotate(images: Tensor, turns: Tensor) -> Tensor:
    """Rotates each square image [M, C, H, H] by its number of quarter turns [M], 0 to 3."""
    every = torch.stack([images.rot90(number, (2, 3)) for number in range(4)])
    return every[turns, torch.arange(len(images), device=images.device)]
