"""FitNets: regression of a feature map in the middle of the teacher (Romero et al. 2015, arXiv 1412.6550).

Trained jointly with the labels, as in later comparisons; the paper first trains the student up to the hint layer.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from kdexp.distillation.hint import Hint
from kdexp.distillation.maps import pool_to_min, size_of


def regressor(student: Tensor, teacher: Tensor) -> nn.Module:
    """Builds a trainable layer with batch norm and ReLU from the student's maps or vectors to the teacher's.

    Its maps have the teacher's size, or the student's if no single convolution leads to the teacher's.
    """
    channels = student.shape[1], teacher.shape[1]
    if student.dim() == teacher.dim() == 2:
        return nn.Sequential(nn.Linear(*channels), nn.BatchNorm1d(channels[1]), nn.ReLU())
    if student.dim() == teacher.dim() == 4:
        sizes = list(zip(student.shape[2:], teacher.shape[2:], strict=True))
        return nn.Sequential(_convolution(channels, sizes), nn.BatchNorm2d(channels[1]), nn.ReLU())
    raise ValueError(
        f"fitnet compares maps with maps or vectors with vectors, not {size_of(student)} (student) with {size_of(teacher)} "
        "(teacher); choose other student_layers or teacher_layers"
    )


def _convolution(channels: tuple[int, int], sizes: list[tuple[int, int]]) -> nn.Module:
    if all(ours == 2 * theirs for ours, theirs in sizes):
        return nn.Conv2d(*channels, 3, stride=2, padding=1)
    if all(2 * ours == theirs for ours, theirs in sizes):
        return nn.ConvTranspose2d(*channels, 4, stride=2, padding=1)
    if all(ours >= theirs for ours, theirs in sizes):
        height, width = (1 + ours - theirs for ours, theirs in sizes)
        return nn.Conv2d(*channels, (height, width))
    return nn.Conv2d(*channels, 3, padding=1)


class FitNet(Hint):
    """Mean squared error between the regressed student features and the teacher's, over all elements, summed over pairs.

    A teacher's map larger than the regressor's output is pooled to that size first.
    """

    label = "FitNet"
    capturable = True
    per_image = True
    features_only = True
    landmarks = ("second_stage",)
    regressor = staticmethod(regressor)

    def transfer(self, batch, student, teacher, progress):
        pairs = [pool_to_min(*pair) if pair[1].dim() == 4 else pair for pair in self.regressed(student, teacher)]
        return {"fitnet": sum(F.mse_loss(*pair) for pair in pairs)}
