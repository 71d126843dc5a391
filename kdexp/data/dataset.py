"""The base class of data sets: shape, split, normalisation, and how images are read."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import TYPE_CHECKING, Annotated, Self

from torch import Tensor

from kdexp.configuration.arguments import Checked, Count, Fraction, NonNegativeInt, Range, Seed
from kdexp.configuration.nodes import build
from kdexp.data.augmentation import (
    Augmentation,
    Border,
    NumberedViews,
    ResizedCrops,
    StrongViews,
    WeakViews,
    stored_alike,
)
from kdexp.data.draws import allot, draw_by_class, in_turn, stratified_draw
from kdexp.data.images import RawImages
from kdexp.data.unlabelled_folder import UnlabelledFolder
from kdexp.errors import DataUnavailable, InvalidArguments, Problem, a_few
from kdexp.files import at_home

if TYPE_CHECKING:
    from kdexp.data.images import ImageFiles

OF_LABELS = ("labels", "label_seed")
"""Arguments that decide which training images have a label."""


class ImageDataset(Checked):
    """A labelled image set with a test split. The validation split is drawn from the training images."""

    num_classes: int
    in_channels: int
    image_size: int
    classes: list[str] | None = None
    """Names of the classes, if known."""
    decisive: tuple[str, ...] = ("val_fraction", "split_seed", "crop_padding", "flip")
    """Attributes that determine the training data, in addition to pixels and normalisation."""

    def __init__(
        self,
        *,
        val_fraction: Annotated[float, Range(at_least=0, below=1)],
        split_seed: Seed,
        student_fraction: Annotated[float, Range(above=0, at_most=1)],
        mean: list[Annotated[float, Range(within=(-1e6, 1e6))]] | None,
        std: list[Annotated[float, Range(above=0, within=(1e-6, 1e6))]] | None,
        crop_padding: NonNegativeInt,
        flip: bool,
        crop_mode: Border = "black",
        strong: dict | None = None,
        resized_crop: list[Fraction] | None = None,
        limit: Count | None = None,  # runs stored before this key existed are read without it
        labels: Count | None = None,
        label_seed: Seed = 0,
        strong_view: dict | None = None,
        unlabelled_root: str | None = None,
    ):
        found = [
            Problem(name, f"={values!r}: must have {self.in_channels} entries, one per channel")
            for name, values in (("mean", mean), ("std", std))
            if values is not None and len(values) != self.in_channels
        ]
        found += _padding_problems(crop_padding, crop_mode, self.image_size)
        for name, policy in (("strong", strong), ("strong_view", strong_view)):
            if policy is not None and self.in_channels not in (1, 3):
                found.append(Problem(name, f"works on images of 1 or 3 channels, not {self.in_channels}"))
        if labels is not None and student_fraction < 1:
            fix = "teacher and students learn from the same labels; add dataset.student_fraction=1"
            found.append(Problem("labels", f"={labels}: {fix}"))
        found += _crop_problems(resized_crop, crop_padding)
        if found:
            raise InvalidArguments(found)
        self.val_fraction = val_fraction
        self.split_seed = split_seed
        self.student_fraction = student_fraction
        self.mean = mean
        self.std = std
        self.crop_padding = crop_padding
        self.flip = flip
        self.crop_mode = crop_mode
        self.strong = strong if _does_anything("strong", strong) else None
        self.strong_view = strong_view if _does_anything("strong_view", strong_view) else None
        self.resized_crop = resized_crop
        self.limit = limit
        self.labels = labels
        self.label_seed = label_seed
        self.unlabelled = None if unlabelled_root is None else UnlabelledFolder(at_home(unlabelled_root))
        newly_cropped = resized_crop is not None and "resized_crop" not in self.decisive  # image folders always name it
        used = {
            "crop_mode": crop_mode != "black",
            "strong": self.strong is not None,
            "resized_crop": newly_cropped,
            "stored_size": newly_cropped,
            "limit": limit is not None,
            **dict.fromkeys(OF_LABELS, labels is not None),
        }
        self.decisive = (*self.decisive, *(name for name in used if used[name]))

    @property
    def stored_size(self) -> int:
        """Side in pixels of the squares that images are stored as."""
        return self.image_size

    def missing(self) -> str:
        """Returns why the data can't be read, in one sentence with a fix; empty if no reason is known."""
        return ""

    def present(self) -> bool:
        """Whether `read` would find all files on this disk, without a download."""
        return True

    def stamp(self) -> str | None:
        """Returns a text that changes when the files of `read` do, without opening them; None if there is no such text."""
        return None

    def read(self) -> tuple[RawImages, RawImages]:
        """Returns the training and the test images; raises `DataUnavailable`."""
        raise NotImplementedError

    def image_files(self) -> tuple[ImageFiles, ImageFiles] | None:
        """Returns the files that `read` would decode, so that they can be streamed; None for sets that are read at once."""
        return None

    def unlabelled_files(self) -> ImageFiles | None:
        """Returns the images of `unlabelled_root`, to be read as all others of the data set; None without a folder."""
        return None if self.unlabelled is None else self.unlabelled.files(self.in_channels, self.stored_size)

    def notes(self) -> list[str]:
        """Returns sentences for the user about how the images were found."""
        return []

    def limited(self, labels: Tensor) -> Tensor:
        """Returns a mask [N] of those training images, not for validation, that `limit` leaves; raises `DataUnavailable`.

        Validation images, test images and measured `mean` and `std` do not depend on the limit.
        """
        counts = labels.bincount(minlength=self.num_classes).tolist()
        if problem := self.limit_problem(counts):
            raise DataUnavailable(problem)
        return draw_by_class(labels, self.limited_counts(counts), self.split_seed + 3)

    def limited_counts(self, counts: Sequence[int]) -> Sequence[int]:
        """Returns how many of each class's training images `limit` leaves."""
        return counts if self.limit is None else allot(self.limit, counts)

    def limit_problem(self, counts: Sequence[int]) -> str:
        """Returns why `limit` images can't be drawn from classes with these numbers of them, or an empty string."""
        most, classes = sum(counts), sum(map(bool, counts))
        if self.limit is None or classes <= self.limit <= most:
            return ""
        if self.limit > most:
            return f"dataset.limit={self.limit} is more than the {most:,} training images; null takes all of them"
        return f"dataset.limit={self.limit} can't have an image of each of the {classes} classes, make it larger"

    def labelled(self, labels: Tensor) -> Tensor:
        """Returns a mask [N] of the `labels` images whose labels are known, of training images that `limited` left.

        Each class has as many as the others, as far as it can. Raises `DataUnavailable`.
        """
        counts = labels.bincount(minlength=self.num_classes).tolist()
        if problem := self.label_problem(counts):
            raise DataUnavailable(problem)
        return draw_by_class(labels, self.labelled_counts(counts), self.label_seed + 4)

    def labelled_counts(self, counts: Sequence[int]) -> Sequence[int]:
        """Returns how many of each class's training images have a label that is known."""
        return counts if self.labels is None else in_turn(self.labels, counts)

    def label_problem(self, counts: Sequence[int]) -> str:
        """Returns why `labels` images can't be drawn from classes with these numbers of them, or an empty string."""
        most, classes = sum(counts), sum(map(bool, counts))
        if self.labels is None or classes <= self.labels <= most:
            return ""
        if self.labels > most:
            return f"dataset.labels={self.labels} is more than the {most:,} training images; null takes all labels"
        return f"dataset.labels={self.labels} is less than one for each of the {classes} classes, make it larger"

    def held_out(self, labels: Tensor) -> Tensor:
        """Returns a mask [N] of the validation images among the training images that `read` returns."""
        return stratified_draw(labels, self.val_fraction, self.split_seed)

    @property
    def validates(self) -> bool:
        """Whether there are validation images."""
        return self.val_fraction > 0

    def weak_views(self) -> WeakViews:
        """Returns the crops and mirrored images that are trained on, or that `strong` changes further."""
        if self.resized_crop is None:
            return NumberedViews(self.image_size, self.crop_padding, self.flip, self.crop_mode)
        smallest, largest = self.resized_crop
        return ResizedCrops(self.image_size, (smallest, largest), self.flip)

    def augmentation(self) -> WeakViews | StrongViews:
        """Returns the augmentation of training images."""
        return self.weak_views() if self.strong is None else StrongViews(self.weak_views(), build(self.strong))

    def augmentations(self) -> tuple[Augmentation, Augmentation | None]:
        """Returns the augmentation of training images, and that of strong views if they have a policy, for one storage."""
        if self.strong_view is None:
            return self.augmentation(), None
        return stored_alike(self.augmentation(), StrongViews(self.weak_views(), build(self.strong_view)))

    def split_problem(self, counts: Sequence[int]) -> str:
        """Returns why fractions and limit can't be drawn from classes with these numbers of images, or an empty string."""
        held = [round(self.val_fraction * count) for count in counts]
        left: Sequence[int] = [count - taken for count, taken in zip(counts, held, strict=True)]
        names = self.classes or [f"class {label}" for label in range(len(counts))]
        emptied = [name for name, taken, rest in zip(names, held, left, strict=True) if taken and not rest]
        if emptied:
            return f"dataset.val_fraction={self.val_fraction:g} leaves no training image of {a_few(emptied)}, make it smaller"
        if self.val_fraction and not any(held):
            return (
                f"dataset.val_fraction={self.val_fraction:g} gives no validation image (at most {max(counts):,} training "
                "images per class), make it larger, or do without validation: dataset.val_fraction=0"
            )
        if problem := self.limit_problem(left):
            return problem
        left = self.limited_counts(left)
        if problem := self.label_problem(left):
            return problem
        if not any(round(self.student_fraction * rest) for rest in left):
            return (
                f"dataset.student_fraction={self.student_fraction:g} leaves students no image (at most {max(left):,} images "
                "per class), make it larger"
            )
        return ""

    def normalised_by(self, mean: list[float] | None, std: list[float] | None) -> Self:
        """Returns a copy that uses these measured values unless its own are given; raises `DataUnavailable` for a std of 0."""
        if mean is None or std is None:
            return self
        if self.std is None and 0 in std:
            channel = std.index(0)
            raise DataUnavailable(
                f"channel {channel} is {mean[channel]} in all training images, so that dataset.std must be given"
            )
        normalised = copy(self)
        normalised.mean, normalised.std = self.mean or mean, self.std or std
        return normalised


def _does_anything(name: str, policy: dict | None) -> bool:
    """Whether the node of RandAugment under that name changes images at all; the option `none` does not."""
    try:
        return policy is not None and build(policy).columns > 0
    except InvalidArguments as error:
        raise InvalidArguments(problem.under(name) for problem in error.problems) from error


def _padding_problems(padding: int, border: Border, size: int) -> list[Problem]:
    """Why images of that size can't be padded so and cropped again."""
    if padding > size:
        return [Problem("crop_padding", f"={padding}: must be at most {size}, the size of the images")]
    if border == "reflect" and padding >= size:
        return [
            Problem("crop_padding", f"={padding}: must be less than {size}, the size of the images, with crop_mode=reflect")
        ]
    if border != "black" and not padding:
        return [Problem("crop_mode", f"={border!r}: is what crop_padding adds, and that is 0; set both")]
    return []


def _crop_problems(area: list[float] | None, padding: int) -> list[Problem]:
    """Why random resized crops of these shares of the area can't be taken."""
    if area is None:
        return []
    if len(area) != 2 or not 0 < area[0] <= area[1]:
        sentence = f"={area!r}: must be [smallest, largest], shares of the area such as [0.25, 1.0]"
        return [Problem("resized_crop", sentence)]
    return [Problem("crop_padding", f"={padding}: must be 0 with resized_crop, which crops too")] if padding else []
