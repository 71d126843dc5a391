"""Relational knowledge distillation (Park et al. 2019, arXiv 1904.05068)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from kdexp.configuration.arguments import Weight
from kdexp.distillation.base import FeatureDistiller
from kdexp.errors import InvalidArguments, Problem

NEAREST = 1e-6
"""Images closer than this in a network's representation count as coincident: no direction, no gradient."""


def differences(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the differences [N, N, D] from vector i to vector j of [N, D], and their lengths [N, N], at least `NEAREST`."""
    between = vectors.unsqueeze(0) - vectors.unsqueeze(1)
    return between, between.square().sum(2).clamp_min(NEAREST**2).sqrt()


def distances(vectors: Tensor) -> Tensor:
    """Returns Euclidean distances [N, N], divided by their mean over pairs; 0 on the diagonal and for a single image."""
    count = len(vectors)
    lengths = differences(vectors)[1] * (1 - torch.eye(count, dtype=vectors.dtype, device=vectors.device))
    return lengths / (lengths.sum() / (count * (count - 1))) if count > 1 else lengths


def angles(vectors: Tensor) -> Tensor:
    """Returns the cosines [N, N, N] of the angles at image i between images j and k; 0 where images coincide."""
    between, lengths = differences(vectors)
    units = (between / lengths.unsqueeze(2)).masked_fill((lengths <= NEAREST).unsqueeze(2), 0)
    return units @ units.transpose(1, 2)


class RKD(FeatureDistiller):
    """Huber losses between both networks' distances (mean over pairs of images) and angles (mean over triples).

    The angles of a batch need memory for several times N³ values. The loss depends on the batch size.
    """

    label = "RKD"
    capturable = True
    features_only = True
    landmarks = ("pooled",)

    def __init__(self, *, distance_weight: Weight, angle_weight: Weight, **shared):
        super().__init__(**shared)
        if not distance_weight and not angle_weight:
            raise InvalidArguments(
                [Problem("angle_weight", f"={angle_weight!r}: nothing is compared if distance_weight=0 too")]
            )
        relations = {"distance": (distance_weight, distances), "angle": (angle_weight, angles)}
        self.relations = {name: (weight, relation) for name, (weight, relation) in relations.items() if weight}

    def transfer(self, batch, student, teacher, progress):
        vectors = [(ours.flatten(1), theirs.flatten(1)) for ours, theirs in self.pairs(student, teacher)]
        return {
            name: weight * sum(F.smooth_l1_loss(relation(ours), relation(theirs)) for ours, theirs in vectors)
            for name, (weight, relation) in self.relations.items()
        }
