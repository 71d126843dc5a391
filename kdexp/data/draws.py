"""Random draws of images, the same share of every class."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def stratified_draw(labels: Tensor, fraction: float, seed: int) -> Tensor:
    """Returns a mask [N] of the given fraction of every class (rounded), drawn by `seed` alone."""
    return draw_by_class(labels, [round(fraction * count) for count in labels.bincount().tolist()], seed)


def draw_by_class(labels: Tensor, counts: Sequence[int], seed: int) -> Tensor:
    """Returns a mask [N] of `counts[label]` images of every class, drawn by `seed` alone; of more images, the same and more."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique().tolist():
        rows = (labels == label).nonzero().flatten()
        mask[rows[torch.randperm(len(rows), generator=generator)[: counts[label]]]] = True
    return mask


def allot(total: int, counts: Sequence[int]) -> list[int]:
    """Divides `total` among classes in proportion to their `counts`, by largest remainders; none that has images gets none.

    `total` is at least the number of classes that have images, and at most the number of images.
    """
    quotas = [total * count / sum(counts) for count in counts]
    allotted = [max(int(quota), min(count, 1)) for quota, count in zip(quotas, counts, strict=True)]
    while (left := total - sum(allotted)) != 0:
        step = 1 if left > 0 else -1
        may = [label for label, number in enumerate(allotted) if (number < counts[label] if left > 0 else number > 1)]
        allotted[max(may, key=lambda label: step * (quotas[label] - allotted[label]))] += step
    return allotted


def in_turn(total: int, counts: Sequence[int]) -> list[int]:
    """Divides `total` among classes evenly, the rest to the first ones; those with fewer images give all of theirs.

    `total` is at most the number of images.
    """
    allotted = [0] * len(counts)
    while left := total - sum(allotted):
        may = [label for label, number in enumerate(allotted) if number < counts[label]]
        share = left // len(may)
        for label in may if share else may[:left]:
            allotted[label] += min(share or 1, counts[label] - allotted[label])
    return allotted
