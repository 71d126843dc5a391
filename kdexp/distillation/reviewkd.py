"""Knowledge review (Chen et al. 2021, arXiv 2104.09044)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdexp.configuration.arguments import NonNegativeInt
from kdexp.distillation.base import FeatureDistiller
from kdexp.distillation.maps import size_of

WIDEST = 512
"""Most channels of the fused maps; fewer if the student's deepest features have fewer."""
LEVELS = (4, 2, 1)
"""Sizes to which maps are pooled for further comparisons."""


class Fusion(nn.Module):
    """Attention-based fusion of a student's map with the fused deeper ones, and a projection to the teacher's map."""

    def __init__(self, ins: int, middle: int, outs: int, *, deepest: bool):
        super().__init__()
        self.enter = nn.Sequential(nn.Conv2d(ins, middle, 1, bias=False), nn.BatchNorm2d(middle))
        self.attend = None if deepest else nn.Sequential(nn.Conv2d(2 * middle, 2, 1), nn.Sigmoid())
        self.leave = nn.Sequential(nn.Conv2d(middle, outs, 3, padding=1, bias=False), nn.BatchNorm2d(outs))
        for module in (*self.enter, *self.leave):
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)

    def forward(self, ours: Tensor, deeper: Tensor | None, size: torch.Size) -> tuple[Tensor, Tensor]:
        """Returns the projection [N, outs, *size] of maps [N, C, H, W], and the fused map [N, middle, H, W]."""
        fused = self.enter(ours)
        if self.attend is not None and deeper is not None:
            deeper = F.interpolate(deeper, fused.shape[2:], mode="nearest")
            shares = self.attend(torch.cat([fused, deeper], dim=1))
            fused = fused * shares[:, :1] + deeper * shares[:, 1:]
        resized = fused if fused.shape[2:] == size else F.interpolate(fused, size, mode="nearest")
        return self.leave(resized), fused


def pyramid_loss(ours: Tensor, theirs: Tensor) -> Tensor:
    """Mean squared error of maps [N, C, H, W], plus that of both pooled to each smaller level, with weights halved each time.

    The weights are normalised to sum to 1. The paper calls it "hierarchical context loss".
    """
    levels = [level for level in LEVELS if level < min(theirs.shape[2:])]
    maps = [(ours, theirs), *((F.adaptive_avg_pool2d(ours, n), F.adaptive_avg_pool2d(theirs, n)) for n in levels)]
    weights = [0.5**level for level in range(len(maps))]
    losses = [weight * F.mse_loss(mine, other) for weight, (mine, other) in zip(weights, maps, strict=True)]
    return torch.stack(losses).sum() / sum(weights)


def as_map(features: Tensor) -> Tensor:
    """Returns a vector [N, D] as a map of one pixel and a map unchanged; raises `ValueError` for anything else."""
    if features.dim() not in (2, 4):
        raise ValueError(
            f"reviewkd fuses maps and vectors, not {size_of(features)}; choose other student_layers or teacher_layers"
        )
    return features if features.dim() == 4 else features[:, :, None, None]


class ReviewKD(FeatureDistiller):
    """Each of the teacher's pre-activations, and its pooled vector, from all of the student's stages at that depth or deeper.

    Layers are listed shallow to deep. A batch needs at least two images, for the batch norm of a vector.
    """

    label = "ReviewKD"
    capturable = True
    per_image = True
    features_only = True
    landmarks = ("stages", "pooled")
    teacher_landmarks = ("preactivations", "pooled")

    def __init__(self, *, warmup_epochs: NonNegativeInt, **shared):
        super().__init__(**shared)
        self.warmup_epochs = warmup_epochs

    def deepest_first(self, student, teacher) -> list[tuple[Tensor, Tensor]]:
        """Returns the pairs of features as maps, deepest first."""
        return [(as_map(ours), as_map(theirs)) for ours, theirs in reversed(self.pairs(student, teacher))]

    def setup(self, probe):
        maps = self.deepest_first(probe.student, probe.teacher)
        middle = min(WIDEST, maps[0][0].shape[1])
        self.fusions = nn.ModuleList(
            Fusion(ours.shape[1], middle, theirs.shape[1], deepest=not level) for level, (ours, theirs) in enumerate(maps)
        )

    def phase(self, progress):
        return progress.ramp(self.warmup_epochs)

    def transfer(self, batch, student, teacher, progress):
        losses, fused = [], None
        for fusion, (ours, theirs) in zip(self.fusions, self.deepest_first(student, teacher), strict=True):
            projected, fused = fusion(ours, fused, theirs.shape[2:])
            losses.append(pyramid_loss(projected, theirs))
        return {"review": progress.ramp(self.warmup_epochs) * sum(losses)}
