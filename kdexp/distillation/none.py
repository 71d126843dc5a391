"""Plain supervised training, for baselines and teachers."""

from kdexp.distillation.base import Distiller


class NoDistillation(Distiller):
    """Cross-entropy with the labels. `temperature` and the weights have no effect; they are accepted for the sake of sweeps."""

    uses_teacher = False
    capturable = True
    per_image = True

    def __init__(self, **shared):
        super().__init__(**shared)
        self.ce_weight, self.kd_weight = 1.0, 0.0
