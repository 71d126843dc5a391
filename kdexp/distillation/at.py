"""Attention transfer (Zagoruyko & Komodakis 2017, arXiv 1612.03928)."""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from kdexp.configuration.arguments import Range
from kdexp.distillation.base import FeatureDistiller
from kdexp.distillation.maps import pool_to_min


def attention(features: Tensor, power: float) -> Tensor:
    """Attention maps of feature maps [N, C, H, W]: the mean of |value|^`power` over channels, as unit vectors [N, H·W].

    An image whose values are all 0 gets the zero vector.
    """
    return F.normalize(features.abs().pow(power).mean(1).flatten(1))


class AttentionTransfer(FeatureDistiller):
    """Distance between the two networks' attention maps, summed over layers. The larger map is pooled to the smaller size.

    `mode=code` follows the authors' code: the squared difference, averaged over batch and positions. `mode=paper` is the
    Euclidean norm of the difference, averaged over the batch; its gradient does not vanish as the maps approach each other.
    """

    label = "AT"
    capturable = True
    per_image = True
    of_outputs = True
    features_only = True
    landmarks = ("stages",)

    def __init__(self, *, mode: Literal["code", "paper"], power: Annotated[float, Range(at_least=1, within=(1, 16))], **shared):
        super().__init__(**shared)
        self.mode = mode
        self.power = power

    def setup(self, probe):
        for pair in self.pairs(probe.student, probe.teacher):
            pool_to_min(*pair)

    def transfer(self, batch, student, teacher, progress):
        return {"at": sum(self.distance(*pool_to_min(*pair)) for pair in self.pairs(student, teacher))}

    def distance(self, ours: Tensor, theirs: Tensor) -> Tensor:
        """Distance between two feature maps of the same size; its gradient is 0 where their attention maps are equal."""
        difference = attention(ours, self.power) - attention(theirs, self.power)
        if self.mode == "code":
            return difference.square().mean()
        return torch.linalg.vector_norm(difference, dim=1).mean()
