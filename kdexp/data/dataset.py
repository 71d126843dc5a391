"""What every data set declares: its shape, its split, its normalisation, and how its images are read."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from kdexp.arguments import Checked, InvalidArguments, NonNegativeInt, Positive, Problem, Range


class DataUnavailable(RuntimeError):
    """Images, or weights to start from, that can't be read or used; the message says why and what would help."""


@dataclass(frozen=True)
class RawImages:
    """Undecided images as they are on disk: `images` uint8 [N, C, H, W], `labels` int64 [N]."""

    images: Tensor
    labels: Tensor

    def __getitem__(self, rows: Tensor) -> RawImages:
        return RawImages(self.images[rows], self.labels[rows])


class ImageDataset(Checked):
    """A labelled image set with a test split; its validation split is drawn from the training images."""

    num_classes: int
    in_channels: int
    image_size: int

    def __init__(
        self,
        *,
        val_fraction: Annotated[float, Range(at_least=0, below=1)],
        split_seed: NonNegativeInt,
        student_fraction: Annotated[float, Range(above=0, at_most=1)],
        mean: list[float],
        std: list[Positive],
        crop_padding: NonNegativeInt,
        flip: bool,
    ):
        found = [
            Problem(name, f"={values!r}: must have {self.in_channels} entries, one per channel")
            for name, values in (("mean", mean), ("std", std))
            if len(values) != self.in_channels
        ]
        if found:
            raise InvalidArguments(found)
        self.val_fraction = val_fraction
        self.split_seed = split_seed
        self.student_fraction = student_fraction
        self.mean = mean
        self.std = std
        self.crop_padding = crop_padding
        self.flip = flip

    def missing(self) -> str:
        """Why the data can't be read, as one sentence with what would help; empty if nothing is known against it."""
        return ""

    def read(self) -> tuple[RawImages, RawImages]:
        """The training and the test images; raises `DataUnavailable`."""
        raise NotImplementedError


def fingerprint(*splits: RawImages) -> str:
    """A hash of every pixel and label, in order."""
    digest = hashlib.sha256()
    for split in splits:
        for tensor in (split.images, split.labels):
            digest.update(str((tuple(tensor.shape), tensor.dtype)).encode())
            digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()


def stratified_draw(labels: Tensor, fraction: float, seed: int) -> Tensor:
    """A mask [N] that marks the given fraction of every class (rounded), drawn by `seed` alone."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        rows = (labels == label).nonzero().flatten()
        drawn = torch.randperm(len(rows), generator=generator)[: round(fraction * len(rows))]
        mask[rows[drawn]] = True
    return mask
