"""The shape of the data, as networks must know it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Shape:
    """What a network must know of the data."""

    num_classes: int
    in_channels: int
    image_size: int

    def probe(self, device: torch.device | str, images: int = 2) -> Tensor:
        """A batch of zeros [N, C, H, W] of this shape."""
        size = (images, self.in_channels, self.image_size, self.image_size)
        return torch.zeros(size, device=device)
