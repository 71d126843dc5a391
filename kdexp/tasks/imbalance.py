"""Classes of unequal size: when they matter, measures that count every class the same, and class weights of the loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from kdexp.tasks.answers import by_class

IMBALANCED = 2
"""Classes are imbalanced if the largest has more than this many times the images of the smallest."""

ClassWeights = Literal["balanced"] | list[float] | None


def imbalanced(counts: Sequence[int]) -> bool:
    """Whether classes with these numbers of images differ enough to be reported; classes without images are left out."""
    present = [count for count in counts if count]
    return bool(present) and max(present) > IMBALANCED * min(present)


def class_accuracies(logits: Tensor, labels: Tensor) -> list[float | None]:
    """Computes the share of each class's images that logits [N, K] classify correctly; None for a class without images."""
    return [right / total if total else None for right, total in by_class(logits, labels)]


def balanced_accuracy(accuracies: Sequence[float | None]) -> float:
    """Computes the mean accuracy of the classes that have images (Brodersen et al. 2010, doi 10.1109/ICPR.2010.764)."""
    present = [accuracy for accuracy in accuracies if accuracy is not None]
    return sum(present) / len(present)


def imbalance_metrics(logits: Tensor, labels: Tensor) -> dict[str, float | list[float | None]]:
    """Returns `balanced_accuracy`, `class_accuracies` and the share of the largest class, `majority`.

    Returns nothing unless the classes of labels [N] are imbalanced.
    """
    counts = labels.bincount().tolist()
    if not imbalanced(counts):
        return {}
    accuracies = class_accuracies(logits, labels)
    measured = {"balanced_accuracy": balanced_accuracy(accuracies), "class_accuracies": accuracies}
    return {**measured, "majority": max(counts) / sum(counts)}


def weights_of_classes(setting: ClassWeights, labels: Tensor, classes: int) -> Tensor | None:
    """Returns the weight of each class [K] in the loss on images with labels [N], on the host; None if all weigh the same.

    `balanced` is N / (C · n) for a class with n of the N images, where C classes have any: their inverse frequency, whose
    mean over the images is 1 (King, Zeng 2001, doi 10.1093/oxfordjournals.pan.a004868). A class without images has 0.
    """
    if setting is None:
        return None
    if setting != "balanced":
        return torch.tensor(setting, dtype=torch.float32)
    counts = labels.cpu().bincount(minlength=classes).double()
    weights = len(labels) / (int((counts > 0).sum()) * counts)
    return torch.where(counts > 0, weights, torch.zeros_like(weights)).float()
