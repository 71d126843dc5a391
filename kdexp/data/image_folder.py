"""A user's own images: one folder per class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from kdexp.configuration.arguments import Fraction, Range
from kdexp.data.dataset import ImageDataset
from kdexp.data.decoding import CHUNK, decode
from kdexp.data.draws import stratified_draw
from kdexp.data.images import ImageFiles, RawImages
from kdexp.data.used_folders import UsedFolders
from kdexp.device.memory import available_memory
from kdexp.errors import a_few
from kdexp.files import at_home, reason
from kdexp.text.characters import printable

MARGIN = 256 / 224
"""With random resized crops, images are stored larger than `image_size` by this factor."""

LARGEST_SIZE = 2**20
"""Largest side in pixels: PyTorch can still represent the size of a few such images."""


def stored_size(data: Mapping[str, Any]) -> int:
    """Returns the side of the squares that images are stored as, by the `data` of a learner's spec.

    Sets that are not folders of images say it if they have a `resized_crop`.
    """
    with_margin = data.get("resized_crop") and "stored_size" not in data
    return round(data["image_size"] * MARGIN) if with_margin else data["image_size"]


class ImageFolder(ImageDataset):
    """`root/train/CLASS/` and `root/test/CLASS/`, or `root/CLASS/` (or `root/train/CLASS/` alone) and a `test_fraction`.

    `root/val/CLASS/` is used for validation, or for testing if there are no other test images. Images of any format and size
    become 8-bit squares, see `decoding.py`. `resized_crop` is the smallest and largest area of a random crop, as a share of
    that square; evaluation then takes the central crop.
    """

    classes: list[str]
    decisive = (*ImageDataset.decisive, "resized_crop", "classes")

    def __init__(
        self,
        *,
        root: str,
        test_fraction: Annotated[float, Range(above=0, below=1)] | None,
        image_size: Annotated[int, Range(at_least=1, within=(1, LARGEST_SIZE))],
        in_channels: Literal[1, 3],
        resized_crop: list[Fraction] | None,
        **shared,
    ):
        self.in_channels, self.image_size = in_channels, image_size
        super().__init__(resized_crop=resized_crop, **shared)
        self.root = at_home(root)
        self.test_fraction = test_fraction
        self.folders = UsedFolders(self.root, test_fraction, self.val_fraction)
        if self.folders.validation is not None:  # nothing is drawn then, and the folder decides which epoch is the best
            self.val_fraction, self.decisive = 0.0, (*self.decisive, "validation_images")
        self.classes = self.folders.classes
        self.num_classes = len(self.classes)

    @property
    def validation_images(self) -> int:
        """Number of images in the validation folder; `read` returns them as the last of the training images."""
        return 0 if self.folders.validation is None else self.folders.validation.count

    @property
    def validates(self) -> bool:
        return super().validates or self.folders.validation is not None

    @property
    def stored_size(self) -> int:
        return stored_size(vars(self))

    def missing(self) -> str:
        try:
            found = list(self._problems())
        except OSError as error:
            found = [f"{printable(error.filename or self.root)} can't be read ({reason(error)})"]
        return f"dataset.root='{printable(self.root)}': {'; '.join(found)}" if found else ""

    def _problems(self) -> Iterator[str]:
        yield from self.folders.problems()
        if self.classes:
            yield from self._count_problems([len(paths) for paths in self.folders.train.paths.values()])
            yield from self._memory_problems()

    def _count_problems(self, counts: list[int]) -> Iterator[str]:
        """Yields why the fractions can't be drawn from these numbers of images; nothing if a class has none anyway."""
        if not all(counts):
            return
        if self._draws_test:
            assert self.test_fraction is not None
            drawn = [round(self.test_fraction * count) for count in counts]
            counts = [count - taken for count, taken in zip(counts, drawn, strict=True)]
            if emptied := [name for name, *n in zip(self.classes, drawn, counts, strict=True) if not all(n)]:
                yield f"dataset.test_fraction={self.test_fraction:g} leaves {a_few(emptied)} without a training or a test image"
                return
        if problem := self.split_problem(counts):
            yield problem

    @property
    def _draws_test(self) -> bool:
        return self.folders.test is None and self.test_fraction is not None

    def _memory_problems(self) -> Iterator[str]:
        # Even streamed from disk, a few images are in memory at a time.
        images = min(CHUNK, sum(part.count for part in self.folders))
        needed, free = images * self.in_channels * self.stored_size**2, available_memory()
        if needed > free:
            shape = f"{self.in_channels}×{self.stored_size}×{self.stored_size}"
            yield (
                f"{images} images of {shape} need {needed / 1e9:.1f} GB of memory, but {free / 1e9:.1f} GB are free, "
                f"choose a smaller dataset.image_size than {self.image_size}"
            )

    def notes(self) -> list[str]:
        return [self._counts(), *self.folders.notes()]

    def _counts(self) -> str:
        train, test = self.image_files()
        held_out = int(self.held_out(train.labels).sum())
        of = "" if self.limit is None else f"{self.limit:,} of "
        used = {"training": len(train.paths) - held_out, "validation": held_out, "test": len(test.paths)}
        *some, last = (f"{of * (name == 'training')}{count:,} {name}" for name, count in used.items() if count)
        classes = f"{self.num_classes} classes ({a_few(self.classes, 3)})"
        return f"{printable(self.root)}: {', '.join(some)} and {last} images in {classes}"

    def read(self) -> tuple[RawImages, RawImages]:
        train, test = decode(*self.image_files())
        return train, test

    def stamp(self) -> str:
        return " ".join(files.stamp() for files in self.image_files())

    def image_files(self) -> tuple[ImageFiles, ImageFiles]:
        train, *others = (part.files(self.in_channels, self.stored_size) for part in self.folders)
        if self._draws_test:
            assert self.test_fraction is not None
            drawn = stratified_draw(train.labels, self.test_fraction, self.split_seed + 2)
            others.append(train[drawn])
            train = train[~drawn]
        *validation, test = others
        return (train + validation[0] if validation else train), test

    def held_out(self, labels: Tensor) -> Tensor:
        if self.folders.validation is None:
            return super().held_out(labels)
        return torch.arange(len(labels)) >= len(labels) - self.validation_images
