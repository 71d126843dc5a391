"""What training hands from the data to the networks."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass
class Batch:
    """One batch on the device: normalised images, labels, and where they come from."""

    image: Tensor
    """[N, C, H, W]."""
    label: Tensor
    """[N], class numbers."""
    index: Tensor
    """[N], rows of the split that is trained on."""
    view: Tensor | None = None
    """[N], number of the augmented view, where views can be numbered; None without augmentation."""
