"""Logit regression (Kim et al. 2021, arXiv 2105.08919)."""

import torch.nn.functional as F

from kdexp.configuration.arguments import Weight
from kdexp.distillation.base import Distiller


class MSELogits(Distiller):
    """Mean squared error between the logits, averaged over batch and classes; in the paper the only term, without labels."""

    own_weights = (0.0, 0.0)
    label = "logit MSE"
    capturable = True
    per_image = True
    of_outputs = True

    def __init__(self, *, weight: Weight, **shared):
        super().__init__(**shared)
        self.weight = weight

    def transfer(self, batch, student, teacher, progress):
        return {"mse_logits": F.mse_loss(student.logits, teacher.logits)}
