"""Temporal ensembling (Laine and Aila 2017, arXiv 1610.02242)."""

from dataclasses import replace
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from kdexp.configuration.arguments import Range
from kdexp.data.views import WEAK
from kdexp.distillation.semi_supervised import Ramped, gaussian_ramp


class TemporalEnsembling(Ramped):
    """Squared distance of the prediction for an image to the average of those of earlier epochs, over images and classes.

    The average of an unlabelled image, Z ← `momentum`·Z + (1 − `momentum`)·prediction from 0, takes in one prediction per epoch
    that the image was seen in: the last one. The target is Z / (1 − `momentum`^epochs). Images without earlier epochs have none
    and count as 0. All of it is stored with the weights.
    """

    label = "temporal ensemble"
    capturable = True
    unlabelled = (WEAK,)
    average: Tensor
    latest: Tensor
    epoch_of_latest: Tensor
    epochs_averaged: Tensor

    def __init__(self, *, momentum: Annotated[float, Range(at_least=0, below=1)], **shared):
        super().__init__(**shared)
        self.momentum = momentum

    def setup(self, probe):
        images, classes = probe.unlabelled, probe.shape.num_classes
        self.register_buffer("average", torch.zeros(images, classes))
        self.register_buffer("latest", torch.zeros(images, classes))
        self.register_buffer("epoch_of_latest", torch.full((images,), -1.0))
        self.register_buffer("epochs_averaged", torch.zeros(images))

    def scheduled(self, progress):
        """The weight and the number of the epoch; the first one has no targets, and the weight 0."""
        epoch = int(progress.epoch)
        at_its_start = replace(progress, epoch=float(epoch))
        return {"ramp": gaussian_ramp(at_its_start, self.ramp) if epoch else 0.0, "epoch": float(epoch)}

    def consistency(self, learner, unlabelled, logits, progress):
        prediction = logits[WEAK].softmax(1)
        target, known = self.targets(unlabelled.index)
        distance = F.mse_loss(prediction, target.to(prediction.dtype), reduction="none").mean(1)
        self.remember(unlabelled.index, prediction.detach())
        return {"consistency": self.now["ramp"] * (distance * known).mean()}

    @torch.no_grad()
    def targets(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """The targets [M, K] of unlabelled images, and whether they have one [M], once their averages are up to date."""
        rows, latest = self.average[index], self.latest[index]
        before, count = self.epoch_of_latest[index], self.epochs_averaged[index]
        due = (before >= 0) & (before < self.now["epoch"])
        rows = torch.where(due[:, None], self.momentum * rows + (1 - self.momentum) * latest, rows)
        count = count + due
        self.average[index], self.epochs_averaged[index] = rows, count
        known = count > 0
        share = torch.where(known, 1 - self.momentum**count, 1.0)
        return rows / share[:, None], known

    @torch.no_grad()
    def remember(self, index: Tensor, prediction: Tensor) -> None:
        """Keeps predictions [M, K] as the latest ones of their images."""
        self.latest[index] = prediction.to(self.latest.dtype)
        self.epoch_of_latest[index] = self.now["epoch"]
