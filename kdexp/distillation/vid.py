"""Variational information distillation (Ahn et al. 2019, arXiv 1904.05835)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdexp.distillation.base import FeatureDistiller
from kdexp.distillation.maps import pool_to_min

FIRST_VARIANCE, LEAST_VARIANCE = 5.0, 1e-5


class Likelihood(nn.Module):
    """A Gaussian over the teacher's map [N, C, H, W]: the mean is a small network, the variance per channel."""

    def __init__(self, channels: int, teacher_channels: int):
        super().__init__()
        self.mean = nn.Sequential(
            nn.Conv2d(channels, teacher_channels, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(teacher_channels, teacher_channels, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(teacher_channels, teacher_channels, 1, bias=False),
        )
        first = math.log(math.expm1(FIRST_VARIANCE - LEAST_VARIANCE))
        self.spread = nn.Parameter(torch.full((teacher_channels, 1, 1), first))

    @property
    def variance(self) -> Tensor:
        """Variance [C, 1, 1] per channel, never below `LEAST_VARIANCE`."""
        return F.softplus(self.spread) + LEAST_VARIANCE

    def forward(self, ours: Tensor, theirs: Tensor) -> Tensor:
        """Returns the negative log-likelihood per element without the constant ½·log 2π, so it may be negative."""
        return 0.5 * ((self.mean(ours) - theirs).square() / self.variance + self.variance.log()).mean()


class VariationalInformation(FeatureDistiller):
    """Negative log-likelihood of the teacher's maps given the student's, summed over layers.

    If the sizes of two maps differ, the larger one is pooled to the smaller size first.
    """

    label = "VID"
    capturable = True
    per_image = True
    features_only = True
    landmarks = ("stages",)

    def setup(self, probe):
        pairs = [pool_to_min(*pair) for pair in self.pairs(probe.student, probe.teacher)]
        self.likelihoods = nn.ModuleList(Likelihood(ours.shape[1], theirs.shape[1]) for ours, theirs in pairs)

    def transfer(self, batch, student, teacher, progress):
        pairs = [pool_to_min(*pair) for pair in self.pairs(student, teacher)]
        return {"vid": sum(likelihood(*pair) for likelihood, pair in zip(self.likelihoods, pairs, strict=True))}
