"""Label smoothing (Szegedy et al. 2016, arXiv 1512.00567): the effect of softer targets without a teacher."""

from typing import Annotated

import torch.nn.functional as F

from kdexp.configuration.arguments import Range
from kdexp.distillation.none import NoDistillation


class LabelSmoothing(NoDistillation):
    """Cross-entropy with the targets (1 − `smoothing`)·label + `smoothing`/K over K classes."""

    capturable = True
    per_image = True

    def __init__(self, *, smoothing: Annotated[float, Range(at_least=0, below=1)], **shared):
        super().__init__(**shared)
        self.smoothing = smoothing

    def losses(self, batch, student, teacher, progress):
        return {"ce": F.cross_entropy(student.logits, batch.label, label_smoothing=self.smoothing)}

    def describe(self):
        return f"CE, smoothing {self.smoothing:g}"
