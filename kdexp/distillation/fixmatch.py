"""FixMatch (Sohn et al. 2020, arXiv 2001.07685)."""

import torch.nn.functional as F
from torch import Tensor

from kdexp.configuration.arguments import Fraction
from kdexp.data.views import STRONG, WEAK
from kdexp.distillation.semi_supervised import SemiSupervised


class FixMatch(SemiSupervised):
    """Cross-entropy of strong views with the class that the student finds in the weak view, where it is sure of it."""

    label = "FixMatch"
    unlabelled = (WEAK, STRONG)
    capturable = True

    def __init__(self, *, threshold: Fraction, **shared):
        super().__init__(**shared)
        self.threshold = threshold

    def consistency(self, learner, unlabelled, logits, progress):
        loss, mask = pseudo_label_loss(logits[WEAK], logits[STRONG], self.threshold)
        learner.note(mask=mask)
        return {"unlabelled": loss}


def pseudo_label_loss(weak: Tensor, strong: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """The cross-entropy of logits `strong` [M, K] with the likeliest classes of `weak`, and the share of images that count.

    An image counts if the probability of that class reaches the threshold; the mean is over all M.
    """
    probability, label = weak.detach().softmax(1).max(1)
    mask = (probability >= threshold).to(strong.dtype)
    return (F.cross_entropy(strong, label, reduction="none") * mask).mean(), mask.mean()
