"""MixMatch (Berthelot et al. 2019, arXiv 1905.02249)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from kdexp.configuration.arguments import Positive
from kdexp.data.views import WEAK, WEAK2
from kdexp.distillation.base import Trainee
from kdexp.distillation.mixing import MixPer, Passes, label_targets, mix_up, sharpen
from kdexp.distillation.semi_supervised import Ramped, unlabelled_of


class MixMatch(Ramped):
    """Mixup of labelled images and of two views of unlabelled ones, whose targets are their sharpened mean prediction.

    The cross-entropy is that of images which are mostly labelled ones; the squared distance of predictions to targets, averaged
    over images and classes, that of the others. Batches are interleaved, and the running statistics those of the first one.
    """

    label = "MixMatch"
    tempered = True
    capturable = True
    unlabelled = (WEAK, WEAK2)

    def __init__(self, *, unlabelled_ratio: Passes, beta: Positive, mix_per: MixPer, **shared):
        super().__init__(unlabelled_ratio=unlabelled_ratio, **shared)
        self.beta = beta
        self.mix_per: MixPer = mix_per

    def update(self, learner, batch, teacher, progress):
        unlabelled = unlabelled_of(batch)
        views = [unlabelled.views[view] for view in self.unlabelled]
        guessed = self.guess(learner, views)
        targets = torch.cat([label_targets(batch.label, guessed), guessed, guessed])
        images, targets = mix_up(torch.cat([batch.image, *views]), targets, self.beta, self.mix_per)
        labelled = len(batch.label)
        passes = learner.forward_all(images.split(labelled), joint=False, interleaved=True)
        logits = torch.cat([outputs.logits for outputs in passes])
        terms = {}
        if self.ce_weight:
            terms["ce"] = self.ce_weight * F.cross_entropy(logits[:labelled], targets[:labelled])
        distance = F.mse_loss(logits[labelled:].softmax(1), targets[labelled:])
        terms["mixmatch"] = self.weight * self.now["ramp"] * distance
        learner.descend(terms)
        return terms

    @torch.no_grad()
    def guess(self, learner: Trainee, views: list[Tensor]) -> Tensor:
        """The targets [M, K] of unlabelled images: their views' mean prediction, sharpened."""
        predictions = [learner.forward_aside(image).logits.softmax(1) for image in views]
        return sharpen(torch.stack(predictions).mean(0), self.temperature)
