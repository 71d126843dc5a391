"""Cosine distance to a pretrained teacher's features after one linear projector (EVA: Fang et al. 2023, arXiv 2211.07636)."""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from kdexp.distillation.base import FeatureDistiller
from kdexp.distillation.maps import pool_to_min, size_of
from kdexp.errors import InvalidArguments, Problem
from kdexp.network.capture import Outputs


def tokens_before_patches(network: nn.Module) -> int:
    """Counts the class and register tokens of a vision transformer, which come before those of its patches.

    timm's networks declare their number; torchvision's have a class token or none.
    """
    declared = getattr(network, "num_prefix_tokens", None)
    if isinstance(declared, int):
        return declared
    return int(isinstance(getattr(network, "class_token", None), nn.Parameter))


def as_map(features: Tensor, before: int) -> Tensor:
    """Returns tokens [N, L, D] as a square map [N, D, H, W] of their patches, or else their mean [N, D].

    The first `before` tokens are no patches, unless only all tokens together make a square. Maps and vectors are unchanged;
    raises `ValueError` for anything else.
    """
    if features.dim() in (2, 4):
        return features
    if features.dim() != 3:
        raise ValueError(f"feature_cosine compares maps, tokens or vectors, not {size_of(features)}; choose other layers")
    for first in dict.fromkeys((before, 0)):
        side = math.isqrt(max(features.shape[1] - first, 0))
        if side and side**2 == features.shape[1] - first:
            return features[:, first:].transpose(1, 2).unflatten(2, (side, side))
    return features[:, before:].mean(1) if features.shape[1] > before else features.mean(1)


def of_one_size(ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """Pools two maps to the smaller one; if one of the two is a vector, averages the other over its positions."""
    if ours.dim() == theirs.dim() == 4:
        return pool_to_min(ours, theirs)
    mine, other = (features.mean((2, 3)) if features.dim() == 4 else features for features in (ours, theirs))
    return mine, other


class FeatureCosine(FeatureDistiller):
    """1 − cosine similarity of the projected student features and the teacher's, averaged over positions and the batch.

    Reads no logits of the teacher, so that a backbone without a classifier can teach.
    """

    label = "feature cosine"
    capturable = True
    features_only = True
    of_outputs = True

    def __init__(self, **shared):
        super().__init__(**shared)
        if not self.ce_weight and not self.kd_weight:
            sentence = (
                "=0: without labels the student's classifier would stay untrained, and its accuracy mean nothing; "
                "distillation=feature_pretraining learns features first and labels after them"
            )
            raise InvalidArguments([Problem("ce_weight", sentence)])

    def layers(self, student, teacher):
        self._before = tokens_before_patches(student), tokens_before_patches(teacher)
        return super().layers(student, teacher)

    def setup(self, probe):
        ours, theirs = self.sized(probe.student, probe.teacher)
        self.projector = nn.Linear(ours.shape[1], theirs.shape[1])

    def sized(self, student: Outputs, teacher: Outputs | None) -> tuple[Tensor, Tensor]:
        """Returns the student's and the teacher's features as maps of one size or as vectors."""
        pair = zip(self.only_pair(student, teacher), self._before, strict=True)
        return of_one_size(*(as_map(features, before) for features, before in pair))

    def transfer(self, batch, student, teacher, progress):
        ours, theirs = (features.movedim(1, -1) for features in self.sized(student, teacher))
        return {"feature_cosine": (1 - F.cosine_similarity(self.projector(ours), theirs, dim=-1)).mean()}
