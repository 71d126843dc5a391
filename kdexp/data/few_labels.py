"""A split with few labels: its labelled images, served again and again, and all images without their labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from kdexp.data.batch import Batch, Unlabelled
from kdexp.data.epoch import NO_UNLABELLED, Epoch, UnlabelledViews
from kdexp.data.pixels import Selected
from kdexp.data.split import Split
from kdexp.data.views import View


class FewLabels(Split):
    """Some labelled images of a split, by their `labelled` rows [N] there, and next to them images without labels.

    An epoch has as many steps as one of the whole split and no partial batch: it goes through the labelled images in one random
    order after the other. Unlabelled images, the labelled ones included, are drawn in the same way, by a generator of their
    own: the labelled batches are the same whether unlabelled ones are read or not. All images are stored once.
    """

    repeats = True

    def __init__(self, whole: Split, labelled: Tensor, unlabelled: Tensor | None = None):
        device = whole.labels.device
        self.augmentation, self.strong, self.memory_format = whole.augmentation, whole.strong, whole.memory_format
        self._mean, self._std = whole._mean, whole._std
        self._whole, self._labelled = whole, labelled.to(device)
        self._unlabelled = torch.arange(len(whole), device=device) if unlabelled is None else unlabelled.to(device)
        self.unlabelled_images = len(self._unlabelled)
        self.labels = whole.labels[self._labelled]
        self.pixels = Selected(whole.pixels, self._labelled)

    @property
    def images_per_epoch(self) -> int:
        return len(self._whole)

    def largest_batch(self, batch_size: int) -> int:
        return batch_size

    def last_batch(self, batch_size: int, limit: int | None = None) -> int:
        return batch_size

    def epoch(
        self,
        seed: int,
        epoch: int,
        images: int | None = None,
        views: tuple[View, ...] = (),
        unlabelled: UnlabelledViews = NO_UNLABELLED,
    ) -> Epoch:
        """Returns the first `images` of an epoch, as many as the whole split has if that is None."""
        shown, device = len(self._whole) if images is None else images, self.labels.device
        found = self._drawing(len(self)).draw(shown, seed, epoch, views).to(device)
        if not unlabelled.views:
            return found
        drawing = self._drawing(self.unlabelled_images)
        beside = drawing.draw(shown * unlabelled.ratio, seed, epoch, unlabelled.views, "unlabelled")
        return replace(found, unlabelled=beside.to(device))

    def batches_of(self, epoch: Epoch, batch_size: int) -> Iterator[Batch]:
        parts = list(epoch.split(batch_size))
        rows = [self._rows(part) for part in parts]
        # In one stream: workers decode for one reader at a time.
        served = self._whole.pixels.serve(torch.cat(rows), len(rows[0]))
        for part, pixels in zip(parts, served, strict=True):
            yield self._both(part, *pixels)

    def batch(self, part: Epoch) -> Batch:
        return self._both(part, *self._whole.pixels.at(self._rows(part)))

    def _rows(self, part: Epoch) -> Tensor:
        """The rows in the whole storage of a batch's images, the labelled ones first."""
        labelled = self._labelled[part.rows]
        return labelled if part.unlabelled is None else torch.cat([labelled, self._unlabelled[part.unlabelled.rows]])

    def _both(self, part: Epoch, pixels: Tensor, positions: Tensor) -> Batch:
        """Returns a batch of the images at these positions, the labelled ones first."""
        beside, count = part.unlabelled, len(part.rows)
        batch = self._batch(part, pixels, positions[:count])
        if beside is None:
            return batch
        others = positions[count:]
        views = self._shown(beside, pixels, others, lambda: self._cut(pixels, others, beside.choices))
        return replace(batch, unlabelled=Unlabelled(beside.rows, views))
