"""Unsupervised data augmentation (UDA; Xie et al. 2020, arXiv 1904.12848)."""

import math
from functools import partial
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from kdexp.configuration.arguments import Fraction
from kdexp.data.views import STRONG, WEAK
from kdexp.distillation.semi_supervised import SemiSupervised

ANNEALING = {
    "linear": lambda done: done,
    "log": lambda done: 1 - math.exp(-5 * done),
    "exp": lambda done: math.exp(5 * (done - 1)),
}
"""How far training signal annealing has let go, from 0 to 1, by the share of the training that is done."""


class UDA(SemiSupervised):
    """Cross-entropy of a strongly augmented image with the sharpened prediction for the image itself, where that is confident.

    Confidence is the largest probability before sharpening, at least `threshold`. With training signal annealing (`tsa`), the
    labelled images that the student is sure of are left out: their probability is above a limit that rises from 1/K to 1.
    """

    label = "UDA"
    tempered = True
    capturable = True
    unlabelled = (WEAK, STRONG)

    def __init__(
        self,
        *,
        threshold: Fraction,
        tsa: Literal["linear", "log", "exp"] | None,
        tsa_of: Literal["largest", "label"],
        **shared,
    ):
        super().__init__(**shared)
        self.threshold = threshold
        self.tsa = tsa
        self.tsa_of = tsa_of

    @property
    def weighs_classes(self):
        """Annealing weighs the labelled images itself."""
        return self.tsa is None

    def scheduled(self, progress):
        return {"annealed": ANNEALING[self.tsa](progress.epoch / progress.epochs)} if self.tsa else {}

    def label_terms(self, batch, logits):
        if not self.tsa or not self.ce_weight:
            return super().label_terms(batch, logits)
        return {"ce": self.ce_weight * batch.label_loss(partial(self.annealed_loss, logits))}

    def annealed_loss(self, logits: Tensor, label: Tensor) -> Tensor:
        """The cross-entropy of logits [N, K] with labels [N] without the images that the student is sure of.

        By the largest probability, it is averaged over all images; by that of the label, over those that are left.
        """
        classes = logits.shape[1]
        limit = 1 / classes + self.now["annealed"] * (1 - 1 / classes)
        probabilities = logits.detach().softmax(1)
        by_label = self.tsa_of == "label"
        sure = probabilities.gather(1, label[:, None])[:, 0] if by_label else probabilities.amax(1)
        left = (sure <= limit).to(logits.dtype)
        loss = (F.cross_entropy(logits, label, reduction="none") * left).sum()
        return loss / left.sum().clamp(min=1) if by_label else loss / len(label)

    def consistency(self, learner, unlabelled, logits, progress):
        weak = logits[WEAK].detach()
        confident = (weak.softmax(1).amax(1) >= self.threshold).to(weak.dtype)
        learner.note(mask=confident.mean())
        loss = F.cross_entropy(logits[STRONG], (weak / self.temperature).softmax(1), reduction="none")
        return {"uda": (loss * confident).mean()}
