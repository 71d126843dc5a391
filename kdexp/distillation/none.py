"""Plain supervised training: the baseline, and how teachers are trained."""

from kdexp.distillation.base import Distiller


class NoDistillation(Distiller):
    """Cross-entropy on the labels. `temperature` and the weights are accepted, so that sweeps cover it, and change nothing."""

    uses_teacher = False
    capturable = True

    def __init__(self, **shared):
        super().__init__(**shared)
        self.ce_weight, self.kd_weight = 1.0, 0.0
