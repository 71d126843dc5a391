"""SemCKD: each student layer learns from the teacher layers that it attends to (Chen et al. 2021, arXiv 2012.03236)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdexp.distillation.base import FeatureDistiller
from kdexp.distillation.maps import pool_to_min
from kdexp.errors import UnknownLayer
from kdexp.network.capture import Outputs
from kdexp.network.landmarks import landmarks_of

SMALLEST_BATCH = 4
"""Images from which the embeddings of similarities have an output."""


class Embedding(nn.Module):
    """Similarities within a batch, maps [N, C, H, W] in, as unit vectors [N, N/4]: one row per image."""

    def __init__(self, batch_size: int):
        super().__init__()
        size = batch_size // 4
        self.layers = nn.Sequential(nn.Linear(batch_size, 2 * size), nn.ReLU(), nn.Linear(2 * size, size))

    def forward(self, features: Tensor) -> Tensor:
        flat = features.flatten(1)
        return F.normalize(self.layers(flat @ flat.T), dim=1)


def projection(ins: int, outs: int) -> nn.Sequential:
    """From the student's channels to the teacher's: 1×1, 3×3, 1×1 convolution, batch norm and ReLU between them."""
    inner = 2 * outs
    return nn.Sequential(
        nn.Conv2d(ins, inner, 1, bias=False),
        nn.BatchNorm2d(inner),
        nn.ReLU(),
        nn.Conv2d(inner, inner, 3, padding=1, bias=False),
        nn.BatchNorm2d(inner),
        nn.ReLU(),
        nn.Conv2d(inner, outs, 1, bias=False),
    )


class SemCKD(FeatureDistiller):
    """Mean squared errors of each student map, projected, and each teacher map, weighed per image by attention over the latter.

    All stages of both nets, or all layers that are named, take part; they need not be equally many. The larger map of a pair is
    averaged to the smaller one's size. The embeddings take whole batches: an epoch's last, smaller one is left out.
    """

    label = "SemCKD"
    capturable = True
    features_only = True
    landmarks = ("stages",)

    def layers(self, student, teacher):
        """Raises `UnknownLayer` for models without stages where none are named."""
        named = ((self.student_layers, student), (self.teacher_layers, teacher))
        self._ours, self._theirs = (_stages(network) if names is None else names for names, network in named)
        return self._ours, self._theirs

    def maps(self, student: Outputs, teacher: Outputs) -> tuple[list[Tensor], list[Tensor]]:
        """All maps of the student and all maps of the teacher, shallow to deep."""
        return [student.features[name] for name in self._ours], [teacher.features[name] for name in self._theirs]

    def setup(self, probe):
        """Raises `ValueError` also for batches too small to have similarities."""
        if probe.batch_size < SMALLEST_BATCH:
            raise ValueError(
                f"semckd compares the images of a batch: batch_size={probe.batch_size} must be {SMALLEST_BATCH} or more"
            )
        ours, theirs = self.maps(probe.student, probe.teacher)
        if not ours or not theirs:
            raise ValueError(f"semckd needs layers of both nets, not {len(ours)} (student) and {len(theirs)} (teacher)")
        self.batch_size = probe.batch_size
        self.queries, self.keys = (nn.ModuleList(Embedding(self.batch_size) for _ in maps) for maps in (ours, theirs))
        pairs = [pool_to_min(mine, other) for mine in ours for other in theirs]
        self.projections = nn.ModuleList(projection(mine.shape[1], other.shape[1]) for mine, other in pairs)

    def transfer(self, batch, student, teacher, progress):
        ours, theirs = self.maps(student, teacher)
        if len(student.logits) != self.batch_size:  # a leaf, so that there is a gradient to take even of this term alone
            return {"semckd": student.logits.new_zeros((), requires_grad=True)}
        return {"semckd": (self.attention(ours, theirs) * self.errors(ours, theirs)).sum(2).mean()}

    def attention(self, ours: list[Tensor], theirs: list[Tensor]) -> Tensor:
        """How much of each image every student layer attends to every teacher layer: [N, S, T], 1 in sum over the last."""
        queries, keys = (
            torch.stack([embed(maps) for embed, maps in zip(embeds, of, strict=True)], dim=1)
            for embeds, of in ((self.queries, ours), (self.keys, theirs))
        )
        return (queries @ keys.mT).softmax(2)

    def errors(self, ours: list[Tensor], theirs: list[Tensor]) -> Tensor:
        """Mean squared error per image of every pair of layers: [N, S, T]."""
        pairs = [pool_to_min(mine, other) for mine in ours for other in theirs]
        found = [
            (project(mine) - other).square().flatten(1).mean(1)
            for project, (mine, other) in zip(self.projections, pairs, strict=True)
        ]
        return torch.stack(found, dim=1).unflatten(1, (len(ours), len(theirs)))


def _stages(network: nn.Module) -> list[str]:
    if not landmarks_of(network).stages:
        raise UnknownLayer(f"{type(network).__name__} declares no stages, so its layers must be named")
    return list(landmarks_of(network).stages)
