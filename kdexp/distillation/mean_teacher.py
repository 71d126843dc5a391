"""Mean Teacher (Tarvainen and Valpola 2017, arXiv 1703.01780)."""

from typing import Literal

import torch.nn.functional as F

from kdexp.data.views import WEAK, WEAK2
from kdexp.distillation.pi_model import RAMPS
from kdexp.distillation.semi_supervised import Ramped


class MeanTeacher(Ramped):
    """Squared distance of the student's prediction for one view of an image from that of its average for another.

    The distance is averaged over images and classes. The average is the moving average of the student's weights (`averaging`).
    """

    label = "Mean Teacher"
    capturable = True
    unlabelled = (WEAK, WEAK2)
    shown = (WEAK,)
    statistics = "labelled"
    needs_average = True

    def __init__(self, *, ramp_shape: Literal["linear", "gaussian"], **shared):
        super().__init__(**shared)
        self.ramp_shape = ramp_shape

    def scheduled(self, progress):
        return {"ramp": RAMPS[self.ramp_shape](progress, self.ramp)}

    def consistency(self, learner, unlabelled, logits, progress):
        target = learner.ask_average(unlabelled.views[WEAK2]).softmax(1)
        return {"consistency": self.now["ramp"] * F.mse_loss(logits[WEAK].softmax(1), target)}
