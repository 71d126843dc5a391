"""SemCKD: each student layer learns from all teacher layers, weighted by attention (Chen et al. 2021, arXiv 2012.03236)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdexp.distillation.base import FeatureDistiller
from kdexp.distillation.maps import pool_to_min
from kdexp.errors import UnknownLayer
from kdexp.network.capture import Outputs
from kdexp.network.landmarks import landmarks_of

SMALLEST_BATCH = 4
"""Smallest batch size for which `Embedding` has any output."""


class Embedding(nn.Module):
    """Embeds each image's similarities to its batch: maps [N, C, H, W] to unit vectors [N, N/4]."""

    def __init__(self, batch_size: int):
        super().__init__()
        size = batch_size // 4
        self.layers = nn.Sequential(nn.Linear(batch_size, 2 * size), nn.ReLU(), nn.Linear(2 * size, size))

    def forward(self, features: Tensor) -> Tensor:
        flat = features.flatten(1)
        return F.normalize(self.layers(flat @ flat.T), dim=1)


def projection(ins: int, outs: int) -> nn.Sequential:
    """Builds 1×1, 3×3 and 1×1 convolutions from the student's channels to the teacher's, with batch norm and ReLU between."""
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
    """Mean squared errors of every projected student map and every teacher map, weighted per image by attention.

    Uses all stages of both networks, or all named layers; their numbers may differ. The larger map of a pair is pooled to the
    smaller size. The embeddings need full batches, so the term is 0 on a smaller last batch.
    """

    label = "SemCKD"
    capturable = True
    features_only = True
    landmarks = ("stages",)

    def layers(self, student, teacher):
        """Raises `UnknownLayer` for models without stages where none are named."""
        self._ours = _stages(student) if self.student_layers is None else self.student_layers
        self._theirs = _stages(teacher) if self.teacher_layers is None else self.teacher_layers
        return self._ours, self._theirs

    def maps(self, student: Outputs, teacher: Outputs) -> tuple[list[Tensor], list[Tensor]]:
        """Returns all maps of the student and all maps of the teacher, shallow to deep."""
        return [student.features[name] for name in self._ours], [teacher.features[name] for name in self._theirs]

    def setup(self, probe):
        """Raises `ValueError` also for batches smaller than `SMALLEST_BATCH`."""
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
        if len(student.logits) != self.batch_size:  # requires_grad, so that backward works even if this is the only term
            return {"semckd": student.logits.new_zeros((), requires_grad=True)}
        return {"semckd": (self.attention(ours, theirs) * self.errors(ours, theirs)).sum(2).mean()}

    def attention(self, ours: list[Tensor], theirs: list[Tensor]) -> Tensor:
        """Attention [N, S, T] of every student layer over the teacher's layers, per image; sums to 1 over the last axis."""
        queries, keys = (
            torch.stack([embed(layer) for embed, layer in zip(embeddings, maps, strict=True)], dim=1)
            for embeddings, maps in ((self.queries, ours), (self.keys, theirs))
        )
        return (queries @ keys.mT).softmax(2)

    def errors(self, ours: list[Tensor], theirs: list[Tensor]) -> Tensor:
        """Mean squared error [N, S, T] of every pair of layers, per image."""
        pairs = [pool_to_min(mine, other) for mine in ours for other in theirs]
        errors = [
            (project(mine) - other).square().flatten(1).mean(1)
            for project, (mine, other) in zip(self.projections, pairs, strict=True)
        ]
        return torch.stack(errors, dim=1).unflatten(1, (len(ours), len(theirs)))


def _stages(network: nn.Module) -> list[str]:
    if not landmarks_of(network).stages:
        raise UnknownLayer(f"{type(network).__name__} declares no stages, so its layers must be named")
    return list(landmarks_of(network).stages)
