"""Images as they are given: in memory, or as files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class RawImages:
    """Undecided images as they are on disk: `images` uint8 [N, C, H, W], `labels` int64 [N]."""

    images: Tensor
    labels: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Of `images`."""
        return tuple(self.images.shape)

    def __getitem__(self, rows: Tensor) -> RawImages:
        return RawImages(self.images[rows], self.labels[rows])


@dataclass(frozen=True)
class ImageFiles:
    """Files of images that become uint8 squares [`channels`, `size`, `size`] when they are asked for; `labels` int64 [N]."""

    paths: list[str]
    labels: Tensor
    channels: int
    size: int

    def __getitem__(self, rows: Tensor) -> ImageFiles:
        """Those of a mask [N], or of row numbers."""
        numbers = rows.nonzero().flatten() if rows.dtype == torch.bool else rows
        return replace(self, paths=[self.paths[row] for row in numbers.tolist()], labels=self.labels[rows])

    def __add__(self, other: ImageFiles) -> ImageFiles:
        """These files, then the others."""
        return replace(self, paths=self.paths + other.paths, labels=torch.cat([self.labels, other.labels]))

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the tensor that all images would be."""
        return len(self.paths), self.channels, self.size, self.size
