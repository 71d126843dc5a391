"""A user's own images: one folder per class."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from kdexp.arguments import Fraction, InvalidArguments, Problem, Range, a_few, did_you_mean
from kdexp.data.augmentation import Augmentation, ResizedCrops
from kdexp.data.class_folders import ClassFolders, subfolders
from kdexp.data.dataset import ImageDataset, RawImages, stratified_draw
from kdexp.data.decoding import CHUNK, ImageFiles, decode
from kdexp.memory import available_memory

MARGIN = 256 / 224
"""With random resized crops, how much larger than `image_size` images are kept."""

LARGEST_SIZE = 2**20
"""Pixels along a side up to which the size of a few images is a number that PyTorch has."""


class ImageFolder(ImageDataset):
    """`root/train/CLASS/` and `root/test/CLASS/`, or `root/CLASS/` (or `root/train/CLASS/` alone) and a `test_fraction`.

    Images of any format and size become squares of bytes (`decoding.py` says how). `resized_crop` is the smallest and largest
    share of that square in a random crop; evaluation then takes the middle.
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
        super().__init__(**shared)
        if resized_crop is not None:
            self._check_crop(resized_crop)
        self.root = Path(root).expanduser()
        self.test_fraction = test_fraction
        self.resized_crop = resized_crop
        train, test = self.root / "train", self.root / "test"
        self.parted = bool(subfolders(train) or subfolders(test) or (train.is_dir() and test.is_dir()))
        self.train = ClassFolders(train if self.parted else self.root)
        self.test = ClassFolders(test) if self.parted and test.is_dir() else None
        self.classes = self.train.classes
        self.num_classes = len(self.classes)

    def _check_crop(self, area: list[float]) -> None:
        if len(area) != 2 or not 0 < area[0] <= area[1]:
            sentence = f"={area!r}: must be [smallest, largest], shares of the area such as [0.25, 1.0]"
            raise InvalidArguments([Problem("resized_crop", sentence)])
        if self.crop_padding:
            raise InvalidArguments(
                [Problem("crop_padding", f"={self.crop_padding}: must be 0 with resized_crop, which crops too")]
            )

    @property
    def kept_size(self) -> int:
        """Pixels along a side of the squares that images become."""
        return round(self.image_size * MARGIN) if self.resized_crop else self.image_size

    def missing(self) -> str:
        try:
            found = list(self._complaints())
        except OSError as error:
            found = [f"{error.filename} can't be read ({error.strerror})"]
        return f"dataset.root={str(self.root)!r}: {'; '.join(found)}" if found else ""

    def _complaints(self) -> Iterator[str]:
        if not self.root.is_dir():
            there = subfolders(self.root.parent)
            yield f"no such folder;{did_you_mean(self.root.name, there)}".removesuffix(";")
        elif not self.classes:
            yield "no class folders in train/" if self.parted else "holds neither train/ and test/ nor class folders"
        else:
            yield from self.train.complaints()
            yield from self._test_complaints()
            if self.num_classes == 1:
                yield f"only one class ({self.classes[0]}), there must be at least two"
            yield from self._count_complaints([len(paths) for paths in self.train.paths.values()])
            yield from self._memory_complaints()

    def _test_complaints(self) -> Iterator[str]:
        if self.test is None:
            if self.test_fraction is None:
                what = (
                    "train/ but no test/" if self.parted else f"class folders ({a_few(self.classes)}) but no train/ and test/"
                )
                yield f"holds {what}, dataset.test_fraction=0.2 draws test images from them"
            return
        if self.test_fraction is not None:
            yield f"has its own test/, which dataset.test_fraction={self.test_fraction:g} would leave unused, set it to null"
        if differing := [
            f"only in {here.folder.name}/: {a_few(sorted(own))}"
            for here, there in ((self.train, self.test), (self.test, self.train))
            if (own := set(here.classes) - set(there.classes))
        ]:
            yield f"train/ and test/ have different classes ({', '.join(differing)})"
        yield from self.test.complaints()

    def _count_complaints(self, counts: list[int]) -> Iterator[str]:
        """What the fractions can't draw from classes of so many images, unless a class has none anyway."""
        if not all(counts):
            return
        if self.test is None and self.test_fraction is not None:
            drawn = [round(self.test_fraction * count) for count in counts]
            counts = [count - taken for count, taken in zip(counts, drawn, strict=True)]
            if lacking := [name for name, *n in zip(self.classes, drawn, counts, strict=True) if not all(n)]:
                yield f"dataset.test_fraction={self.test_fraction:g} leaves {a_few(lacking)} without a training or a test image"
                return
        if complaint := self.split_complaint(counts):
            yield complaint

    def _memory_complaints(self) -> Iterator[str]:
        # Whatever the memory, a few are in it at a time.
        images = min(CHUNK, sum(len(paths) for folders in self._folders for paths in folders.paths.values()))
        needed, free = images * self.in_channels * self.kept_size**2, available_memory()
        if needed > free:
            shape = f"{self.in_channels}×{self.kept_size}×{self.kept_size}"
            yield (
                f"{images} images of {shape} need {needed / 1e9:.1f} GB of memory, but {free / 1e9:.1f} GB are free, "
                f"choose a smaller dataset.image_size than {self.image_size}"
            )

    @property
    def _folders(self) -> list[ClassFolders]:
        return [self.train] if self.test is None else [self.train, self.test]

    def read(self) -> tuple[RawImages, RawImages]:
        train, test = decode(*self.image_files())
        return train, test

    def image_files(self) -> tuple[ImageFiles, ImageFiles]:
        first, *rest = (folders.files(self.in_channels, self.kept_size) for folders in self._folders)
        if rest:
            return first, rest[0]
        assert self.test_fraction is not None
        drawn = stratified_draw(first.labels, self.test_fraction, self.split_seed + 2)
        return first[~drawn], first[drawn]

    def augmentation(self) -> Augmentation:
        if self.resized_crop is None:
            return super().augmentation()
        smallest, largest = self.resized_crop
        return ResizedCrops(self.image_size, (smallest, largest), self.flip)
