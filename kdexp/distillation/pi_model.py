"""The Π-model (Laine and Aila 2017, arXiv 1610.02242)."""

from typing import Literal

import torch.nn.functional as F

from kdexp.data.views import WEAK, WEAK2
from kdexp.distillation.semi_supervised import Ramped, gaussian_ramp, linear_ramp

RAMPS = {"linear": linear_ramp, "gaussian": gaussian_ramp}


class PiModel(Ramped):
    """Squared distance of the predictions for two views of an image, averaged over images and classes.

    The prediction for the second view is held constant unless `both_branches` have gradients.
    """

    label = "Π"
    capturable = True
    unlabelled = (WEAK, WEAK2)
    statistics = "labelled"

    def __init__(self, *, both_branches: bool, ramp_shape: Literal["linear", "gaussian"], **shared):
        super().__init__(**shared)
        self.both_branches = both_branches
        self.ramp_shape = ramp_shape

    def scheduled(self, progress):
        return {"ramp": RAMPS[self.ramp_shape](progress, self.ramp)}

    def consistency(self, learner, unlabelled, logits, progress):
        target = logits[WEAK2].softmax(1)
        distance = F.mse_loss(logits[WEAK].softmax(1), target if self.both_branches else target.detach())
        return {"consistency": self.now["ramp"] * distance}
