"""Similarity-preserving distillation (Tung & Mori 2019, arXiv 1907.09682)."""

import torch.nn.functional as F
from torch import Tensor

from kdexp.distillation.base import FeatureDistiller


def similarities(features: Tensor) -> Tensor:
    """Returns the inner products [N, N] of the flattened features [N, ...] of all pairs of images, rows normalised."""
    vectors = features.flatten(1)
    return F.normalize(vectors @ vectors.T)


class SimilarityPreserving(FeatureDistiller):
    """Mean squared difference of both networks' similarities over all pairs of images in the batch, summed over layers.

    Its scale depends on the number of images: a smaller last batch weighs more, a single image nothing.
    """

    label = "SP"
    capturable = True
    landmarks = ("last_stage",)
    features_only = True

    def setup(self, probe):
        for ours, theirs in self.pairs(probe.student, probe.teacher):
            if len(ours) != len(theirs):
                raise ValueError(
                    f"sp compares the images of a batch, not {len(ours)} rows (student) with {len(theirs)} (teacher); "
                    "choose other student_layers or teacher_layers"
                )

    def transfer(self, batch, student, teacher, progress):
        pairs = self.pairs(student, teacher)
        return {"sp": sum(F.mse_loss(similarities(ours), similarities(theirs)) for ours, theirs in pairs)}
