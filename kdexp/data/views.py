"""The views of an image that networks may read, by name."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

View = Literal["plain", "weak", "weak2", "strong", "strong2", "mixed"]

PLAIN: View = "plain"
"""The image without augmentation."""
WEAK: View = "weak"
"""The image as the data set augments it: what `Batch.image` is."""
WEAK2: View = "weak2"
"""Another draw of the same augmentation."""
STRONG: View = "strong"
"""A draw of the same augmentation, changed by RandAugment (`dataset.strong_view`)."""
STRONG2: View = "strong2"
"""Another draw of `strong`."""
MIXED: View = "mixed"
"""`weak`, mixed with the image before it in the batch."""


class Reading(NamedTuple):
    """What a network reads of a batch: a view of its images, or of its unlabelled ones."""

    view: View
    unlabelled: bool = False


VIEWS: tuple[View, ...] = (PLAIN, WEAK, WEAK2, STRONG, STRONG2, MIXED)


def folded(shares: Tensor) -> Tensor:
    """Returns the larger of each share and its rest, 0.5 to 1, so that a mixed image is mostly the one that it is named by."""
    return torch.maximum(shares, 1 - shares)


def mixed(images: Tensor, share: Tensor) -> Tensor:
    """Returns `share` [1] of each image [N, C, H, W] plus the rest of the one before it, of the last one for the first.

    Mixup (Zhang et al. 2018, arXiv 1710.09412) with one share for the batch, as in Beyer et al. 2022, arXiv 2106.05237.
    """
    return share * images + (1 - share) * images.roll(1, 0)
