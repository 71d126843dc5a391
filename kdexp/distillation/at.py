"""Attention transfer: where a network looks, its channels folded (Zagoruyko & Komodakis 2017, arXiv 1612.03928)."""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from kdexp.configuration.arguments import Range
from kdexp.distillation.base import FeatureDistiller
from kdexp.distillation.maps import pool_to_min


def attention(features: Tensor, power: float) -> Tensor:
    """Maps [N, C, H, W] as unit vectors [N, H·W]: the channels' mean of |value|^`power`; 0 where all values are."""
    return F.normalize(features.abs().pow(power).mean(1).flatten(1))


class AttentionTransfer(FeatureDistiller):
    """Distance of the attention maps of both nets, the larger map averaged to the smaller one's size, summed over layers.

    `mode=code` is what the authors' code does, the squared difference averaged over batch and positions; `mode=paper` is the
    Euclidean norm of the difference, averaged over the batch, whose gradient does not fade as the maps come near each other.
    """

    label = "AT"
    capturable = True
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
        """Of two maps of one size; its gradient is 0 where the attention maps are equal."""
        difference = attention(ours, self.power) - attention(theirs, self.power)
        if self.mode == "code":
            return difference.square().mean()
        return torch.linalg.vector_norm(difference, dim=1).mean()
