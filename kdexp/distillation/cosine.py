"""Cosine distance of hidden representations (PyTorch tutorial "Knowledge Distillation", Chariton 2023)."""

import torch.nn.functional as F
from torch import Tensor

from kdexp.distillation.base import FeatureDistiller


def match_length(teacher: Tensor, length: int) -> Tensor:
    """Averages neighbouring values of vectors [N, D] to [N, length]; raises `ValueError` if D is no multiple of `length`."""
    ratio, remainder = divmod(teacher.shape[1], length)
    if remainder:
        raise ValueError(
            f"cosine averages neighbouring teacher values until both vectors are equally long, but {teacher.shape[1]} "
            f"(teacher) is no multiple of {length} (student); choose other student_layers or teacher_layers"
        )
    return F.avg_pool1d(teacher.unsqueeze(1), ratio).squeeze(1) if ratio > 1 else teacher


class Cosine(FeatureDistiller):
    """1 − cosine similarity of the flattened representations, averaged over the batch and summed over pairs of layers."""

    label = "cosine"
    capturable = True
    per_image = True
    of_outputs = True
    features_only = True

    def setup(self, probe):
        for ours, theirs in self.pairs(probe.student, probe.teacher):
            match_length(theirs.flatten(1), ours.flatten(1).shape[1])

    def transfer(self, batch, student, teacher, progress):
        vectors = [(ours.flatten(1), theirs.flatten(1)) for ours, theirs in self.pairs(student, teacher)]
        distances = [1 - F.cosine_similarity(ours, match_length(theirs, ours.shape[1])) for ours, theirs in vectors]
        return {"cosine": sum(distance.mean() for distance in distances)}
