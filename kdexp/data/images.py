"""Unaugmented images with labels, in memory or as files."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kdexp.files import stamp


@dataclass(frozen=True)
class RawImages:
    """Decoded images before augmentation: `images` uint8 [N, C, H, W], `labels` int64 [N]."""

    images: Tensor
    labels: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of `images`."""
        return tuple(self.images.shape)

    def __getitem__(self, rows: Tensor | slice) -> RawImages:
        return RawImages(self.images[rows], self.labels[rows])

    def __add__(self, other: RawImages) -> RawImages:
        """Concatenates two sets of images."""
        return RawImages(torch.cat([self.images, other.images]), torch.cat([self.labels, other.labels]))


@dataclass(frozen=True)
class ImageFiles:
    """Image files, decoded on demand to uint8 squares [`channels`, `size`, `size`], with `labels` int64 [N]."""

    paths: list[str]
    labels: Tensor
    channels: int
    size: int

    def __getitem__(self, rows: Tensor) -> ImageFiles:
        """Selects files by a mask [N] or by row numbers."""
        numbers = rows.nonzero().flatten() if rows.dtype == torch.bool else rows
        return replace(self, paths=[self.paths[row] for row in numbers.tolist()], labels=self.labels[rows])

    def __add__(self, other: ImageFiles) -> ImageFiles:
        """Concatenates two sets of files."""
        return replace(self, paths=self.paths + other.paths, labels=torch.cat([self.labels, other.labels]))

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape [N, C, H, W] of all images, decoded."""
        return len(self.paths), self.channels, self.size, self.size

    def stamp(self) -> str:
        """Returns a hash that changes with the files, their order, their labels, and what they are decoded to."""
        labels = hashlib.sha256(self.labels.numpy().data).hexdigest()
        return f"{stamp(self.paths)} {labels} {self.shape}"
