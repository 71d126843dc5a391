"""Interpolation consistency training (ICT; Verma et al. 2019, arXiv 1903.03825)."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from kdexp.configuration.arguments import Positive
from kdexp.data.views import WEAK, folded
from kdexp.distillation.base import Trainee
from kdexp.distillation.mixing import MixPer, draw_order, draw_shares, label_targets, mix, mix_up
from kdexp.distillation.semi_supervised import Ramped, unlabelled_of


class ICT(Ramped):
    """Squared distance of the prediction for two mixed images to their predictions, mixed by the same share.

    Those are the moving average's; the distance is averaged over images and classes. With `label_beta`, labelled images are
    mixed as well, and so are their labels.
    """

    label = "ICT"
    capturable = True
    needs_average = True
    unlabelled = (WEAK,)

    def __init__(
        self,
        *,
        beta: Positive,
        mix_per: MixPer,
        mostly_first: bool,
        partner: Literal["reversed", "random"],
        mixed_targets: Literal["probabilities", "logits"],
        label_beta: Positive | None,
        **shared,
    ):
        super().__init__(**shared)
        self.beta = beta
        self.mix_per: MixPer = mix_per
        self.mostly_first = mostly_first
        self.partner = partner
        self.mixed_targets = mixed_targets
        self.label_beta = label_beta

    def update(self, learner, batch, teacher, progress):
        image = unlabelled_of(batch).views[WEAK]
        shares = draw_shares(self.beta, image, self.mix_per)
        shares = folded(shares) if self.mostly_first else shares
        order = draw_order(image) if self.partner == "random" else None
        target = self.target(learner, image, shares, order)
        mixed = mix(image, _partners(image, order), shares)
        labels, labelled = label_targets(batch.label, target), batch.image
        if self.label_beta:
            labelled, labels = mix_up(labelled, labels, self.label_beta, self.mix_per)
        answers, unlabelled = (outputs.logits for outputs in learner.forward_all([labelled, mixed], joint=False))
        terms = {"ce": self.ce_weight * F.cross_entropy(answers, labels)} if self.ce_weight else {}
        terms["ict"] = self.weight * self.now["ramp"] * F.mse_loss(unlabelled.softmax(1), target)
        learner.descend(terms)
        return terms

    def target(self, learner: Trainee, image: Tensor, shares: Tensor, order: Tensor | None) -> Tensor:
        """The moving average's predictions [M, K] for both images of each mixed one, mixed."""
        logits = learner.ask_average(image)
        if self.mixed_targets == "logits":
            return mix(logits, _partners(logits, order), shares).softmax(1)
        predictions = logits.softmax(1)
        return mix(predictions, _partners(predictions, order), shares)


def _partners(values: Tensor, order: Tensor | None) -> Tensor:
    """Values [M, ...] in that order, reversed without one."""
    return values.flip(0) if order is None else values[order]
