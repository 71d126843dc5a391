"""Hint: regression of a teacher's feature map by one convolution (Romero et al. 2015, arXiv 1412.6550).

The convolution is bare, without batch norm or ReLU, as in the PyTorch tutorial "Knowledge Distillation" (Chariton 2023).
"""

import torch.nn.functional as F
from torch import Tensor, nn

from kdexp.distillation.base import FeatureDistiller
from kdexp.distillation.maps import size_of
from kdexp.network.capture import Outputs


def regressor(student: Tensor, teacher: Tensor) -> nn.Module:
    """Builds a trainable layer from the student's features to the teacher's: a 3×3 convolution for maps, else linear."""
    if student.dim() == teacher.dim() and student.dim() < 4 and student.shape[:-1] == teacher.shape[:-1]:
        return nn.Linear(student.shape[-1], teacher.shape[-1])
    if student.dim() == teacher.dim() == 4 and student.shape[2:] == teacher.shape[2:]:
        return nn.Conv2d(student.shape[1], teacher.shape[1], 3, padding=1)
    raise ValueError(
        f"hint compares maps of one size, not {size_of(student)} (student) with {size_of(teacher)} (teacher); "
        "choose other student_layers or teacher_layers"
    )


class Hint(FeatureDistiller):
    """Mean squared error between the regressed student features and the teacher's, over all elements, summed over pairs."""

    label = "hint"
    capturable = True
    per_image = True
    of_outputs = True
    features_only = True
    regressor = staticmethod(regressor)

    def setup(self, probe):
        pairs = self.pairs(probe.student, probe.teacher)
        self.regressors = nn.ModuleList(self.regressor(ours, theirs) for ours, theirs in pairs)

    def regressed(self, student: Outputs, teacher: Outputs) -> list[tuple[Tensor, Tensor]]:
        """Returns the pairs of features, the student's after regression."""
        pairs = zip(self.regressors, self.pairs(student, teacher), strict=True)
        return [(regress(ours), theirs) for regress, (ours, theirs) in pairs]

    def transfer(self, batch, student, teacher, progress):
        return {"hint": sum(F.mse_loss(*pair) for pair in self.regressed(student, teacher))}
