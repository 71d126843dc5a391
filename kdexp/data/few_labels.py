"""Labelled images, and next to them images without labels: those of the same split, and those of a folder of a user's own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from kdexp.data.batch import Batch, Unlabelled
from kdexp.data.epoch import NO_UNLABELLED, Epoch, UnlabelledViews
from kdexp.data.pixels import Selected
from kdexp.data.split import Split
from kdexp.data.unlabelled_folder import NO_LABEL
from kdexp.data.views import View


class FewLabels(Split):
    """Labelled images of a split, by their rows [N] there (None: all), and next to them images without labels.

    Unlabelled are all images that the split stores, the labelled ones included. They are drawn in one random order after the
    other, by a generator of their own: the labelled batches are the same whether unlabelled ones are read or not.

    With all labels, labelled batches are those of the split. With some, an epoch has as many steps as one of the whole split
    and no partial batch: it goes through the labelled images in one random order after the other. All images are stored once.
    """

    def __init__(self, whole: Split, labelled: Tensor | None):
        _take_over(self, whole)
        self.repeats = labelled is not None
        self._whole = whole
        self._labelled = torch.arange(len(whole)) if labelled is None else labelled
        self._labelled = self._labelled.to(whole.labels.device)
        self.unlabelled_images = self.stored_images = whole.stored_images
        self.labels = whole.labels[self._labelled]
        self.pixels = Selected(whole.pixels, self._labelled)

    @property
    def images_per_epoch(self) -> int:
        return len(self._whole)

    @property
    def unlabelled(self) -> Split:
        return _Unlabelled(self._whole)

    def largest_batch(self, batch_size: int) -> int:
        return batch_size if self.repeats else super().largest_batch(batch_size)

    def last_batch(self, batch_size: int, limit: int | None = None) -> int:
        return batch_size if self.repeats else super().last_batch(batch_size, limit)

    def epoch(
        self,
        seed: int,
        epoch: int,
        images: int | None = None,
        views: tuple[View, ...] = (),
        unlabelled: UnlabelledViews = NO_UNLABELLED,
    ) -> Epoch:
        """Returns the first `images` of an epoch, as many as the whole split has if that is None."""
        shown = len(self._whole) if images is None else images
        shown, device = shown if self.repeats else min(shown, len(self)), self.labels.device
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
        return labelled if part.unlabelled is None else torch.cat([labelled, part.unlabelled.rows])

    def _both(self, part: Epoch, pixels: Tensor, positions: Tensor) -> Batch:
        """Returns a batch of the images at these positions, the labelled ones first."""
        beside, count = part.unlabelled, len(part.rows)
        batch = self._batch(part, pixels, positions[:count])
        if beside is None:
            return batch
        others = positions[count:]
        views = self._shown(beside, pixels, others, lambda: self._cut(pixels, others, beside.choices))
        return replace(batch, unlabelled=Unlabelled(beside.rows, views))


class _Unlabelled(Split):
    """All images that a split stores, without labels. An epoch may show several views of one."""

    repeats = True

    def __init__(self, whole: Split):
        _take_over(self, whole)
        self.pixels, self.stored_images = whole.pixels, whole.stored_images
        self.labels = torch.full((whole.stored_images,), NO_LABEL, device=whole.labels.device)


def _take_over(split: Split, whole: Split) -> None:
    """Gives a split the augmentations and the normalisation of another."""
    for name in ("augmentation", "strong", "memory_format", "_mean", "_std"):
        setattr(split, name, getattr(whole, name))
