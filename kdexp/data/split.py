"""A split of a data set: images augmented in bulk and served by row, from the device or copied there in blocks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import cast

import torch
from torch import Tensor

from kdexp.data.augmentation import Augmentation, NumberedViews
from kdexp.data.batch import Batch
from kdexp.data.dataset import ImageDataset
from kdexp.data.epoch import NO_UNLABELLED, Drawing, Epoch, UnlabelledViews
from kdexp.data.images import ImageFiles
from kdexp.data.pixels import InMemory, OnDevice, OnDisk, Storage
from kdexp.data.source import Images
from kdexp.data.views import MIXED, PLAIN, STRONG, STRONG2, WEAK, WEAK2, View, mixed
from kdexp.data.workers import Workers

NORMALISED_LIMIT = 2**30
"""Largest size in bytes at which a split is stored on the device in fp32, normalised; larger ones stay uint8."""

CHUNK = 1024
"""Images that are prepared at a time."""


class Split:
    """One split: some rows of a set of images (None: all), with the augmentation used in training.

    `unlabelled` rows of the set are stored behind these; they are no images of the split itself, which `FewLabels` serves.
    """

    repeats: bool = False
    """Whether an epoch may have an image several times."""
    unlabelled_images: int = 0
    """Number of images that batches can have without labels."""
    stored_images: int
    """Number of images in `pixels`, those without labels included."""

    def __init__(
        self,
        raw: Images,
        dataset: ImageDataset,
        device: torch.device,
        *,
        augmented: bool,
        memory_format: torch.memory_format = torch.contiguous_format,
        rows: Tensor | None = None,
        unlabelled: Tensor | None = None,
        resident: bool = True,
        workers: Workers | None = None,
    ):
        self.augmentation: Augmentation = NumberedViews(dataset.image_size)
        self.strong: Augmentation | None = None
        if augmented:
            self.augmentation, self.strong = dataset.augmentations()
        self.memory_format = memory_format
        rows = torch.arange(len(raw.labels)) if rows is None else rows
        self.labels = raw.labels[rows].to(device)
        rows = rows if unlabelled is None else torch.cat([rows, unlabelled])
        self.stored_images = len(rows)
        self._mean, self._std = (torch.tensor(values, device=device).view(-1, 1, 1) for values in (dataset.mean, dataset.std))
        if isinstance(raw, ImageFiles):
            assert workers is not None
            self.pixels: Storage = OnDisk(raw, rows, device, self._prepared, workers)
        elif resident:
            self.pixels = OnDevice(self._stored(raw.images, rows))
        else:
            self.pixels = InMemory(raw.images, rows, device, self._prepared)

    def _prepared(self, pixels: Tensor) -> Tensor:
        return self.augmentation.prepare(pixels).contiguous(memory_format=self.memory_format)

    def _stored(self, images: Tensor, rows: Tensor) -> Tensor:
        """Returns all prepared images on the device, normalised if they fit `NORMALISED_LIMIT`."""
        shape = [len(rows), *self.augmentation.prepare(images[:1]).shape[1:]]
        moves_pixels = self.augmentation.moves_pixels and self.strong is None
        normalise = moves_pixels and 4 * math.prod(shape) <= NORMALISED_LIMIT
        dtype, device = torch.float32 if normalise else torch.uint8, self.labels.device
        # With one channel `contiguous` can't tell the memory formats apart, but kernels can.
        memory_format = self.memory_format if shape[1] > 1 else torch.contiguous_format
        stored = torch.empty(shape, dtype=dtype, device=device, memory_format=memory_format)
        for part, part_rows in zip(stored.split(CHUNK), rows.split(CHUNK), strict=True):
            pixels = self.augmentation.prepare(images.index_select(0, part_rows).to(device))
            part.copy_(self._normalised(pixels) if normalise else pixels)
        return stored

    def _normalised(self, pixels: Tensor) -> Tensor:
        # Divides by 255 first, as torchvision does: bit-equal to ToTensor and Normalize.
        return pixels.float().div_(255).sub_(self._mean).div_(self._std)

    def scaled(self, images: Tensor) -> Tensor:
        """Returns normalised images without augmentation as they were before, in 0..1, the same numbers bit for bit."""
        return (images * self._std + self._mean).mul(255).round().div(255).contiguous()

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def static(self) -> bool:
        """Whether every batch is made by the same work on the device, so that it can be recorded."""
        return self.pixels.resident

    @property
    def views(self) -> int | None:
        """Number of different views of an image; None if they can't be counted."""
        return self.augmentation.count

    @property
    def images_per_epoch(self) -> int:
        """Number of training images that an epoch is as long as."""
        return len(self)

    @property
    def unlabelled(self) -> Split:
        """The images that batches can have without labels, as a split of their own."""
        raise AssertionError("these images have labels")

    def steps(self, batch_size: int, limit: int | None = None) -> int:
        """Returns the number of batches in an epoch, a smaller last one included."""
        return min(-(-self.images_per_epoch // batch_size), limit or self.images_per_epoch)

    def largest_batch(self, batch_size: int) -> int:
        """Returns the number of images in the largest batch."""
        return min(batch_size, len(self))

    def leaves_one(self, batch_size: int, limit: int | None = None) -> bool:
        """Whether the last batch of an epoch is a single image."""
        return self.last_batch(batch_size, limit) == 1

    def last_batch(self, batch_size: int, limit: int | None = None) -> int:
        """Images of the last batch of an epoch, which may be smaller than the others."""
        before = (self.steps(batch_size, limit) - 1) * batch_size
        return min(batch_size, len(self) - before)

    def epoch(
        self,
        seed: int,
        epoch: int,
        images: int | None = None,
        views: tuple[View, ...] = (),
        unlabelled: UnlabelledViews = NO_UNLABELLED,
    ) -> Epoch:
        """Returns the first `images` (None: all) of an epoch; order and all draws depend on `seed` and `epoch` alone."""
        assert not unlabelled.views, "these images have labels"
        shown = len(self) if images is None else min(images, len(self))
        return self._drawing(len(self)).draw(shown, seed, epoch, views).to(self.labels.device)

    def _drawing(self, images: int) -> Drawing:
        return Drawing(images, self.augmentation, self.strong)

    def batches(
        self,
        batch_size: int,
        *,
        seed: int,
        epoch: int,
        limit: int | None = None,
        views: tuple[View, ...] = (),
        unlabelled: UnlabelledViews = NO_UNLABELLED,
    ) -> Iterator[Batch]:
        """Draws an epoch and yields its batches, or the first `limit` of them."""
        images = self.steps(batch_size, limit) * batch_size
        return self.batches_of(self.epoch(seed, epoch, images, views, unlabelled), batch_size)

    def batches_of(self, epoch: Epoch, batch_size: int) -> Iterator[Batch]:
        """The batches of an epoch that was drawn before."""
        for part, pixels in zip(epoch.split(batch_size), self.pixels.serve(epoch.rows, batch_size), strict=True):
            yield self._batch(part, *pixels)

    def batch(self, part: Epoch) -> Batch:
        """Returns the images of a part of an epoch as one batch."""
        return self._batch(part, *self.pixels.at(part.rows))

    def _batch(self, part: Epoch, pixels: Tensor, positions: Tensor) -> Batch:
        """Returns a batch in all its views, each cut from the same pixels."""
        image, number = self._cut(pixels, positions, part.choices), part.choices if self.views else None
        share = None if part.shares is None else part.shares[:1]
        views = self._shown(part, pixels, positions, lambda: image)
        return Batch(image, self.labels[part.rows], part.rows, number, views, share)

    def _shown(self, part: Epoch, pixels: Tensor, positions: Tensor, weak: Callable[[], Tensor]) -> dict[View, Tensor]:
        """Returns the images of a part of an epoch in its views; `weak` makes that one."""
        cut, strong = partial(self._cut, pixels, positions), partial(self._cut, pixels, positions, of=self.strong)
        makers: dict[View, Callable[[], Tensor]] = {
            PLAIN: lambda: cut(None),
            WEAK: weak,
            WEAK2: lambda: cut(part.second),
            STRONG: lambda: strong(part.strong),
            STRONG2: lambda: strong(part.strong2),
            MIXED: lambda: mixed(weak(), cast(Tensor, part.shares)[:1]),
        }
        return {view: makers[view]() for view in part.views}

    def in_order(self, batch_size: int) -> Iterator[Tensor]:
        """Yields all images without augmentation, in the order of their rows, `batch_size` at a time."""
        return self.show(Epoch(torch.arange(len(self), device=self.labels.device)), batch_size)

    def show(self, epoch: Epoch, size: int) -> Iterator[Tensor]:
        """Yields the images of an epoch, `size` at a time; images that are not on the device are prefetched."""
        for part, (pixels, positions) in zip(epoch.split(size), self.pixels.serve(epoch.rows, size), strict=True):
            yield self._cut(pixels, positions, part.choices)

    def images(self, rows: Tensor, choice: Tensor | None) -> Tensor:
        """Returns the images [N, C, H, W] of the given rows in the given views."""
        return self._cut(*self.pixels.at(rows), choice)

    def _cut(self, pixels: Tensor, positions: Tensor, choice: Tensor | None, of: Augmentation | None = None) -> Tensor:
        images = (of or self.augmentation).cut(pixels, positions, choice)
        if pixels.dtype == torch.uint8:
            images = self._normalised(images)
        return images.contiguous(memory_format=self.memory_format)
