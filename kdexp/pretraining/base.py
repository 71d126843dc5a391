"""What methods of pretraining share: a training that reads no labels."""

from __future__ import annotations

from kdexp.configuration.arguments import Temperature
from kdexp.data.views import View
from kdexp.distillation.base import Distiller


class Pretraining(Distiller):
    """A method that trains a network without its classifier; neither a teacher nor a label is read."""

    uses_teacher = False
    own_weights = (0.0, 0.0)

    def __init__(self, *, temperature: Temperature, student_view: View | None = None):
        shared = {"alpha": None, "ce_weight": None, "kd_weight": None}
        super().__init__(temperature=temperature, student_view=student_view, **shared)


class NoPretraining(Pretraining):
    """No row starts from pretrained weights."""

    def __init__(self):
        super().__init__(temperature=1.0)
