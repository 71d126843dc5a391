"""Images as tensors, augmented in bulk, served by index: held on the device, or brought there block by block."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from kdexp.data.augmentation import NumberedViews
from kdexp.data.batch import Batch
from kdexp.data.dataset import ImageDataset
from kdexp.data.images import ImageFiles
from kdexp.data.pixels import InMemory, OnDevice, OnDisk, Storage
from kdexp.data.placement import Keeping
from kdexp.data.source import Images
from kdexp.data.workers import Workers

NORMALISED_LIMIT = 2**30
"""Bytes up to which a split on the device is normalised there in fp32; others stay uint8 and are normalised batch by batch."""

CHUNK = 1024
"""Images that are prepared at a time."""

AS_IT_FITS = Keeping()


@dataclass(frozen=True)
class Epoch:
    """The images of an epoch in their order: `rows` [n] of the split and, where there are several views, a choice for each."""

    rows: Tensor
    choices: Tensor | None

    def split(self, size: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Rows and choices of `size` images after the other."""
        parts = self.rows.split(size)
        yield from zip(parts, [None] * len(parts) if self.choices is None else self.choices.split(size), strict=True)

    def at(self, places: Tensor) -> tuple[Tensor, Tensor | None]:
        """Copies of the rows and choices at these places [m]."""
        return self.rows[places], None if self.choices is None else self.choices[places]

    def copy_(self, other: Epoch) -> None:
        """Writes as many of another epoch's images over these."""
        for mine, theirs in ((self.rows, other.rows), (self.choices, other.choices)):
            if mine is not None and theirs is not None:
                mine.copy_(theirs[: len(mine)])


class Split:
    """Those rows of a set of images (None: all) that are one split, with the augmentation that training on them uses."""

    def __init__(
        self,
        raw: Images,
        dataset: ImageDataset,
        device: torch.device,
        *,
        augmented: bool,
        memory_format: torch.memory_format = torch.contiguous_format,
        rows: Tensor | None = None,
        resident: bool = True,
        workers: Workers | None = None,
    ):
        self.augmentation = dataset.augmentation() if augmented else NumberedViews(dataset.image_size)
        self.memory_format = memory_format
        rows = torch.arange(len(raw.labels)) if rows is None else rows
        self.labels = raw.labels[rows].to(device)
        self._mean, self._std = (torch.tensor(values, device=device).view(-1, 1, 1) for values in (dataset.mean, dataset.std))
        if isinstance(raw, ImageFiles):
            assert workers is not None
            self.pixels: Storage = OnDisk(raw, rows, device, self._prepared, workers)
        elif resident:
            self.pixels = OnDevice(self._whole(raw.images, rows))
        else:
            self.pixels = InMemory(raw.images, rows, device, self._prepared)

    def _prepared(self, pixels: Tensor) -> Tensor:
        return self.augmentation.prepare(pixels).contiguous(memory_format=self.memory_format)

    def _whole(self, images: Tensor, rows: Tensor) -> Tensor:
        """All prepared images on the device, normalised if that is affordable, made from a few at a time."""
        shape = [len(rows), *self.augmentation.prepare(images[:1]).shape[1:]]
        quick = self.augmentation.moves_pixels and 4 * math.prod(shape) <= NORMALISED_LIMIT
        kind, device = torch.float32 if quick else torch.uint8, self.labels.device
        # `contiguous` sees no difference between the formats of one channel; kernels do.
        memory_format = self.memory_format if shape[1] > 1 else torch.contiguous_format
        whole = torch.empty(shape, dtype=kind, device=device, memory_format=memory_format)
        for place, some in zip(whole.split(CHUNK), rows.split(CHUNK), strict=True):
            pixels = self.augmentation.prepare(images.index_select(0, some).to(device))
            place.copy_(self._normalised(pixels) if quick else pixels)
        return whole

    def _normalised(self, pixels: Tensor) -> Tensor:
        # Division by 255 before the mean, as torchvision does it: bit-equal to ToTensor and Normalize.
        return pixels.float().div_(255).sub_(self._mean).div_(self._std)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def static(self) -> bool:
        """Whether making a batch is the same work on the device for every batch."""
        return self.pixels.resident

    @property
    def views(self) -> int | None:
        """How many different views of an image there are; None where they can't be counted."""
        return self.augmentation.count

    def steps(self, batch_size: int, limit: int | None = None) -> int:
        """Batches in an epoch, the last partial one included."""
        return min(-(-len(self) // batch_size), limit or len(self))

    def leaves_one(self, batch_size: int, limit: int | None = None) -> bool:
        """Whether the last batch of an epoch is a single image."""
        before = (self.steps(batch_size, limit) - 1) * batch_size
        return min(batch_size, len(self) - before) == 1

    def epoch(self, seed: int, epoch: int, images: int | None = None) -> Epoch:
        """The first `images` (None: all) of an epoch, in an order and with views that `seed` and `epoch` alone decide."""
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        device = self.labels.device
        rows = torch.randperm(len(self), generator=generator).to(device)[:images]
        drawn = self.augmentation.draw(len(self), generator)
        return Epoch(rows, None if drawn is None else drawn.to(device)[rows])

    def batches(self, batch_size: int, *, seed: int, epoch: int, limit: int | None = None) -> Iterator[Batch]:
        """Draws an epoch and yields its batches, or the first `limit` of them."""
        return self.batches_of(self.epoch(seed, epoch, limit and limit * batch_size), batch_size)

    def batches_of(self, epoch: Epoch, batch_size: int) -> Iterator[Batch]:
        """The batches of an epoch that was drawn before."""
        for (rows, choice), image in zip(epoch.split(batch_size), self.show(epoch, batch_size), strict=True):
            yield self._batch(image, rows, choice)

    def batch(self, rows: Tensor, choice: Tensor | None) -> Batch:
        """The given rows, each as its choice says."""
        return self._batch(self.look(rows, choice), rows, choice)

    def _batch(self, image: Tensor, rows: Tensor, choice: Tensor | None) -> Batch:
        return Batch(image, self.labels[rows], rows, choice if self.views else None)

    def in_order(self, batch_size: int) -> Iterator[Tensor]:
        """All images as they are, without augmentation, in the order of their rows."""
        return self.show(Epoch(torch.arange(len(self), device=self.labels.device), None), batch_size)

    def show(self, epoch: Epoch, size: int) -> Iterator[Tensor]:
        """The images of an epoch, `size` at a time; what is not on the device is fetched ahead."""
        for (_, choice), (pixels, places) in zip(epoch.split(size), self.pixels.serve(epoch.rows, size), strict=True):
            yield self._cut(pixels, places, choice)

    def look(self, rows: Tensor, choice: Tensor | None) -> Tensor:
        """Images [N, C, H, W]: the given rows, each as its choice says."""
        return self._cut(*self.pixels.at(rows), choice)

    def _cut(self, pixels: Tensor, places: Tensor, choice: Tensor | None) -> Tensor:
        images = self.augmentation.cut(pixels, places, choice)
        if pixels.dtype == torch.uint8:
            images = self._normalised(images)
        return images.contiguous(memory_format=self.memory_format)
