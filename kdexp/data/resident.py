"""Images held on the device as tensors: normalised once, augmented in bulk, served by index. No loader, no workers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from kdexp.data.batch import Batch
from kdexp.data.dataset import ImageDataset, RawImages, fingerprint, stratified_draw


class Split:
    """The images of one split, in fp32 on one device, with the augmentation that training on them uses.

    Padding and flipping give each image (2·padding + 1)²·(2 if flip) numbered views, of which every epoch draws one.
    """

    def __init__(
        self,
        raw: RawImages,
        dataset: ImageDataset,
        device: torch.device,
        *,
        augmented: bool,
        memory_format: torch.memory_format = torch.contiguous_format,
    ):
        self.size = raw.images.shape[2]
        self.padding = dataset.crop_padding if augmented else 0
        self.flip = dataset.flip and augmented
        # Padding before normalising, so that the border is black: what torchvision's RandomCrop(padding=...) gives.
        pixels = F.pad(raw.images, [self.padding] * 4).to(device)
        mean, std = (torch.tensor(values, device=device).view(-1, 1, 1) for values in (dataset.mean, dataset.std))
        # Division by 255 before the mean, as torchvision does it: bit-equal to ToTensor and Normalize.
        images = pixels.float().div_(255).sub_(mean).div_(std)
        self.memory_format = memory_format
        self._images = images.contiguous(memory_format=memory_format)
        self.labels = raw.labels.to(device)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def repeats(self) -> bool:
        """Whether every epoch shows the very same images."""
        return self.padding == 0 and not self.flip

    @property
    def views(self) -> int:
        """How many different views of an image there are."""
        return (2 * self.padding + 1) ** 2 * (2 if self.flip else 1)

    def steps(self, batch_size: int, limit: int | None = None) -> int:
        """Batches in an epoch, the last partial one included."""
        return min(-(-len(self) // batch_size), limit or len(self))

    def batches(self, batch_size: int, *, seed: int, epoch: int, limit: int | None = None) -> Iterator[Batch]:
        """One epoch in an order, and with views, that `seed` and `epoch` alone decide."""
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        order = torch.randperm(len(self), generator=generator).to(self.labels.device)
        views = None
        if not self.repeats:
            views = torch.randint(self.views, (len(self),), generator=generator).to(self.labels.device)
        for rows in order.split(batch_size)[:limit]:
            view = None if views is None else views[rows]
            yield Batch(self._look(rows, view), self.labels[rows], rows, view)

    def in_order(self, batch_size: int) -> Iterator[Tensor]:
        """All images as they are, without augmentation, in the order of their rows."""
        for rows in torch.arange(len(self), device=self.labels.device).split(batch_size):
            yield self._look(rows, self._plain_view(rows))

    def _plain_view(self, rows: Tensor) -> Tensor | None:
        if self.repeats:
            return None
        centre = self.padding * (2 * self.padding + 1) + self.padding
        return torch.full_like(rows, centre * (2 if self.flip else 1))

    def _look(self, rows: Tensor, view: Tensor | None) -> Tensor:
        """Images [N, C, H, W]: the given rows, each in the given view."""
        if view is None:
            return self._images[rows]
        offset = view // 2 if self.flip else view
        span = 2 * self.padding + 1
        windows = self._images.unfold(2, self.size, 1).unfold(3, self.size, 1)
        images = windows[rows, :, offset // span, offset % span]
        if self.flip:
            mirrored = (view % 2 == 1).view(-1, 1, 1, 1)
            images = torch.where(mirrored, images.flip(3), images)
        return images.contiguous(memory_format=self.memory_format)


@dataclass(frozen=True)
class Data:
    """A data set as a run uses it; the students' training images are among the teacher's."""

    train: Split
    student_train: Split
    validation: Split | None
    test: Split
    fingerprint: str


def load(dataset: ImageDataset, device: torch.device, memory_format: torch.memory_format = torch.contiguous_format) -> Data:
    """Reads, splits and normalises; the split depends on `split_seed` alone. Raises `DataUnavailable`."""
    train, test = dataset.read()
    held_out = stratified_draw(train.labels, dataset.val_fraction, dataset.split_seed)
    kept, validation = train[~held_out], train[held_out]
    seen = stratified_draw(kept.labels, dataset.student_fraction, dataset.split_seed + 1)
    split = partial(Split, dataset=dataset, device=device, memory_format=memory_format)
    teacher_split = split(kept, augmented=True)
    return Data(
        train=teacher_split,
        student_train=teacher_split if bool(seen.all()) else split(kept[seen], augmented=True),
        validation=split(validation, augmented=False) if len(validation.labels) else None,
        test=split(test, augmented=False),
        fingerprint=fingerprint(train, test),
    )
