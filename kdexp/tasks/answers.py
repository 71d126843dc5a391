"""What networks answer on single classes and images."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor


def by_class(logits: Tensor, labels: Tensor) -> list[tuple[int, int]]:
    """Counts the images of each class that logits [N, K] classify correctly, and all images of the class."""
    right = labels[logits.argmax(1) == labels]
    classes = logits.shape[1]
    return list(zip(right.bincount(minlength=classes).tolist(), labels.bincount(minlength=classes).tolist(), strict=True))


def confusions(logits: Tensor, labels: Tensor) -> Counter[tuple[int, int]]:
    """Counts, for each pair of classes, the lower first, the images of either that are taken for the other."""
    said = logits.argmax(1)
    wrong = said != labels
    pairs = zip(labels[wrong].tolist(), said[wrong].tolist(), strict=True)
    return Counter((min(pair), max(pair)) for pair in pairs)


def most_confused(logits: Tensor, labels: Tensor, most: int) -> list[tuple[int, int]]:
    """Returns the pairs of classes that are confused most often, at most that many; of equals the lower classes."""
    counts = confusions(logits, labels)
    return sorted(counts, key=lambda pair: (-counts[pair], pair))[:most]


def decisive(ours: Tensor, theirs: Tensor, labels: Tensor, most: int) -> tuple[list[int], list[int]]:
    """Returns the images that only the first network classifies correctly, and those that only the second does.

    They are at most `most` in all, half of each kind if there are enough: those whose label's probability differs most.
    """
    first, second = ours.argmax(1) == labels, theirs.argmax(1) == labels
    rows = torch.arange(len(labels))
    gain = ours.float().softmax(1)[rows, labels] - theirs.float().softmax(1)[rows, labels]
    gained, lost = (_largest(gain, first & ~second), _largest(-gain, second & ~first))
    of_lost = min(len(lost), max(most // 2, most - len(gained)))
    return gained[: most - of_lost], lost[:of_lost]


def _largest(values: Tensor, mask: Tensor) -> list[int]:
    """The rows in the mask, those of the largest values first."""
    found = mask.nonzero().flatten()
    return found[values[found].sort(descending=True, stable=True).indices].tolist()
