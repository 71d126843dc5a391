"""A batch of training images."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass
class Batch:
    """One batch on the device: normalised images, labels, and their origin in the training split."""

    image: Tensor
    """Images [N, C, H, W]."""
    label: Tensor
    """Class numbers [N]."""
    index: Tensor
    """Rows [N] of the training split."""
    view: Tensor | None = None
    """Numbers [N] of the augmented views; None without augmentation, or if views can't be numbered."""
