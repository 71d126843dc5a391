"""Function matching with a patient, consistent teacher (Beyer et al. 2022, arXiv 2106.05237)."""

from kdexp.data.views import MIXED
from kdexp.distillation.kd import KD


class FunctionMatching(KD):
    """Soft targets on mixed images that both networks read, without the labels."""

    own_views = (MIXED, MIXED)
    capturable = True
    per_image = True
    of_outputs = True
