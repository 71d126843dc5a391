"""The shape of the data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Shape:
    """The properties of the data that a network is built for."""

    num_classes: int
    in_channels: int
    image_size: int

    def probe(self, device: torch.device | str, images: int = 2) -> Tensor:
        """Returns a batch of zeros [N, C, H, W]."""
        size = (images, self.in_channels, self.image_size, self.image_size)
        return torch.zeros(size, device=device)
