"""Knowledge distillation by soft targets (Hinton, Vinyals, Dean 2015, arXiv 1503.02531)."""

from kdexp.distillation.base import Distiller


class KD(Distiller):
    """`ce_weight`·CE + `kd_weight`·T²·KL(teacher ‖ student), the terms of the base class."""

    own_weights = (0.0, 1.0)
    capturable = True
    per_image = True
    of_outputs = True
