"""Images held on the device as tensors: augmented in bulk, served by index. No loader, no workers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from kdexp.data.augmentation import NumberedViews
from kdexp.data.batch import Batch
from kdexp.data.dataset import DataUnavailable, ImageDataset, RawImages, fingerprint, stratified_draw

NORMALISED_LIMIT = 2**30
"""Bytes up to which a split is kept normalised in fp32; a larger one stays uint8 and is normalised batch by batch."""


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
    """The images of one split on one device, with the augmentation that training on them uses."""

    def __init__(
        self,
        raw: RawImages,
        dataset: ImageDataset,
        device: torch.device,
        *,
        augmented: bool,
        memory_format: torch.memory_format = torch.contiguous_format,
    ):
        self.augmentation = dataset.augmentation() if augmented else NumberedViews(dataset.image_size)
        self.memory_format = memory_format
        self.labels = raw.labels.to(device)
        self._mean, self._std = (torch.tensor(values, device=device).view(-1, 1, 1) for values in (dataset.mean, dataset.std))
        pixels = self.augmentation.prepare(raw.images).to(device)
        if self.augmentation.moves_pixels and 4 * pixels.numel() <= NORMALISED_LIMIT:
            pixels = self._normalised(pixels)
        self._images = pixels.contiguous(memory_format=memory_format)

    def _normalised(self, pixels: Tensor) -> Tensor:
        # Division by 255 before the mean, as torchvision does it: bit-equal to ToTensor and Normalize.
        return pixels.float().div_(255).sub_(self._mean).div_(self._std)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def static(self) -> bool:
        """Whether making a batch is the same work on the device for every batch."""
        return True

    @property
    def repeats(self) -> bool:
        """Whether every epoch shows the very same images."""
        return self.views == 1

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
        """The batches of an epoch, or the first `limit` of them."""
        shown = self.epoch(seed, epoch, limit and limit * batch_size)
        for rows, choice in shown.split(batch_size):
            yield self.batch(rows, choice)

    def batch(self, rows: Tensor, choice: Tensor | None) -> Batch:
        """The given rows, each as its choice says."""
        return Batch(self.look(rows, choice), self.labels[rows], rows, choice if self.views else None)

    def in_order(self, batch_size: int) -> Iterator[Tensor]:
        """All images as they are, without augmentation, in the order of their rows."""
        for rows in torch.arange(len(self), device=self.labels.device).split(batch_size):
            yield self.look(rows, None)

    def look(self, rows: Tensor, choice: Tensor | None) -> Tensor:
        """Images [N, C, H, W]: the given rows, each as its choice says."""
        images = self.augmentation.cut(self._images, rows, choice)
        if self._images.dtype == torch.uint8:
            images = self._normalised(images)
        return images.contiguous(memory_format=self.memory_format)


@dataclass(frozen=True)
class Data:
    """A data set as a run uses it; the students' training images are among the teacher's."""

    train: Split
    student_train: Split
    validation: Split | None
    test: Split
    fingerprint: str
    mean: list[float]
    std: list[float]


def load(dataset: ImageDataset, device: torch.device, memory_format: torch.memory_format = torch.contiguous_format) -> Data:
    """Reads, splits and normalises; the split depends on `split_seed` alone. Raises `DataUnavailable`."""
    train, test = dataset.read()
    if complaint := dataset.split_complaint(train.labels.bincount(minlength=dataset.num_classes).tolist()):
        raise DataUnavailable(complaint)
    mark = fingerprint(train, test)
    held_out = stratified_draw(train.labels, dataset.val_fraction, dataset.split_seed)
    kept, validation = train[~held_out], train[held_out]
    del train  # large sets should not be held twice
    seen = stratified_draw(kept.labels, dataset.student_fraction, dataset.split_seed + 1)
    dataset = dataset.measured(kept)
    assert dataset.mean is not None and dataset.std is not None
    split = partial(Split, dataset=dataset, device=device, memory_format=memory_format)
    teacher_split = split(kept, augmented=True)
    return Data(
        train=teacher_split,
        student_train=teacher_split if bool(seen.all()) else split(kept[seen], augmented=True),
        validation=split(validation, augmented=False) if len(validation.labels) else None,
        test=split(test, augmented=False),
        fingerprint=mark,
        mean=dataset.mean,
        std=dataset.std,
    )
