"""Augmentation of training images: in bulk, on tensors, with an epoch's own random generator."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from kdexp.data.randaugment.policy import RandAugment

Border = Literal["black", "reflect", "grey"]
"""What images are padded with before they are cropped: black, their own mirror image without its outermost pixels, or 128."""


def centre(pixels: Tensor, size: int) -> Tensor:
    """Returns the central size × size crop of images [N, C, H, W], as a view."""
    top, left = ((side - size) // 2 for side in pixels.shape[2:])
    return pixels[:, :, top : top + size, left : left + size]


class NumberedViews:
    """Crops after padding, optionally mirrored: (2·padding + 1)²·(2 if flip) views of an image.

    A choice is the number of a view. Views only move pixels, so images may be normalised before or after.
    """

    moves_pixels = True

    def __init__(self, size: int, padding: int = 0, flip: bool = False, border: Border = "black"):
        self.size, self.padding, self.flip, self.border = size, padding, flip, border
        self.span = 2 * padding + 1
        self.count = self.span**2 * (2 if flip else 1)

    def prepare(self, pixels: Tensor) -> Tensor:
        """Returns raw images with their border, which is added before normalising: black is 0."""
        pixels = centre(pixels, self.size)
        if not self.padding:
            return pixels
        if self.border == "reflect":
            return F.pad(pixels, [self.padding] * 4, mode="reflect")
        return F.pad(pixels, [self.padding] * 4, value=128 if self.border == "grey" else 0)

    def draw(self, images: int, generator: torch.Generator) -> Tensor | None:
        """Draws a choice [N] for every image; None if there is only one view."""
        return torch.randint(self.count, (images,), generator=generator) if self.count > 1 else None

    def cut(self, pixels: Tensor, rows: Tensor, choice: Tensor | None) -> Tensor:
        """Returns the given rows [n, C, H, W] of prepared images, each in its view, or unaugmented without a choice."""
        if choice is None:
            return centre(pixels, self.size)[rows]
        offset = choice // 2 if self.flip else choice
        windows = pixels.unfold(2, self.size, 1).unfold(3, self.size, 1)
        images = windows[rows, :, offset // self.span, offset % self.span]
        if self.flip:
            images = torch.where((choice % 2 == 1).view(-1, 1, 1, 1), images.flip(3), images)
        return images


class ResizedCrops:
    """Random rectangles with an aspect ratio of 3/4 to 4/3, resized bilinearly, optionally mirrored.

    Szegedy et al. 2015, arXiv 1409.4842. `area` is the smallest and largest share of the image. Unlike in torchvision, corners
    need not lie on whole pixels and there is no antialiasing, so images should be stored only a little larger than `size`. A
    choice is the affine map [2, 3] from the crop to the image, both in coordinates from −1 to 1.
    """

    moves_pixels = False
    count = None
    TRIES = 10

    def __init__(self, size: int, area: tuple[float, float], flip: bool):
        self.size, self.area, self.flip = size, area, flip

    def prepare(self, pixels: Tensor) -> Tensor:
        """Returns raw images unchanged."""
        return pixels

    def draw(self, images: int, generator: torch.Generator) -> Tensor:
        """Draws a choice [N, 2, 3] for every image: the first of ten rectangles that fits, else the whole image."""
        area = torch.empty(images, self.TRIES).uniform_(*self.area, generator=generator)
        ratio = torch.empty(images, self.TRIES).uniform_(math.log(3 / 4), math.log(4 / 3), generator=generator).exp()
        sides = torch.stack([(area / ratio).sqrt(), (area * ratio).sqrt()], 2)
        fits = (sides <= 1).all(2)
        first = fits.int().argmax(1)
        sides = torch.where(fits.any(1)[:, None], sides[torch.arange(images), first], 1.0)
        centres = (2 * torch.rand(images, 2, generator=generator) - 1) * (1 - sides)
        signs = torch.randint(2, (images,), generator=generator) * 2 - 1 if self.flip else torch.ones(images)
        maps = torch.zeros(images, 2, 3)
        maps[:, 0, 0], maps[:, 0, 2] = sides[:, 1] * signs, centres[:, 1]
        maps[:, 1, 1], maps[:, 1, 2] = sides[:, 0], centres[:, 0]
        return maps

    def cut(self, pixels: Tensor, rows: Tensor, choice: Tensor | None) -> Tensor:
        """Returns each row's rectangle [n, C, H, W], or its central crop without a choice, on the scale of `pixels`."""
        if choice is None:
            return centre(pixels, self.size)[rows]
        grid = F.affine_grid(choice, [len(rows), pixels.shape[1], self.size, self.size], align_corners=False)
        return F.grid_sample(pixels[rows].float(), grid, padding_mode="border", align_corners=False)


WeakViews = NumberedViews | ResizedCrops


class StrongViews:
    """Weak views, such as crops, with RandAugment after them, or before them if it says so.

    A choice is a row of numbers: the weak view's, if there are several, then those of RandAugment.
    """

    moves_pixels = False
    count = None

    def __init__(self, weak: WeakViews, strong: RandAugment):
        self.weak, self.strong = weak, strong

    def prepare(self, pixels: Tensor) -> Tensor:
        """Returns raw images as the first of the two takes them."""
        return pixels if self.strong.before_crop else self.weak.prepare(pixels)

    def draw(self, images: int, generator: torch.Generator) -> Tensor:
        """Draws a choice [N, columns] for every image; the number of a weak view is exact up to 2²⁴."""
        weak, strong = self.weak.draw(images, generator), self.strong.draw(images, generator)
        return strong if weak is None else torch.cat([weak.view(images, -1).float(), strong], 1)

    def cut(self, pixels: Tensor, rows: Tensor, choice: Tensor | None) -> Tensor:
        """Returns the given rows [n, C, H, W] of prepared images, each in its view, or unaugmented without a choice."""
        if choice is None:
            return self.weak.cut(pixels, rows, None)
        weak, strong = choice.tensor_split([choice.shape[1] - self.strong.columns], 1)
        if not self.strong.before_crop:
            images = self._weak(pixels, rows, weak)
            return self.strong.apply(images if images.dtype == torch.uint8 else images.round().to(torch.uint8), strong)
        images = self.weak.prepare(self.strong.apply(pixels[rows], strong))
        return self._weak(images, torch.arange(len(rows), device=rows.device), weak)

    def _weak(self, pixels: Tensor, rows: Tensor, choice: Tensor) -> Tensor:
        if not choice.shape[1]:
            return self.weak.cut(pixels, rows, None)
        return self.weak.cut(pixels, rows, choice[:, 0].long() if self.weak.count else choice.unflatten(1, (2, 3)))


class Unprepared:
    """An augmentation of images that are stored as they were read, since another one takes them so: prepares those it cuts."""

    moves_pixels = False

    def __init__(self, augmentation: WeakViews | StrongViews):
        self.augmentation = augmentation
        self.count = augmentation.count

    def prepare(self, pixels: Tensor) -> Tensor:
        """Returns raw images unchanged."""
        return pixels

    def draw(self, images: int, generator: torch.Generator) -> Tensor | None:
        """Draws a choice for every image."""
        return self.augmentation.draw(images, generator)

    def cut(self, pixels: Tensor, rows: Tensor, choice: Tensor | None) -> Tensor:
        """Returns the given rows [n, C, H, W] of raw images, each in its view, or unaugmented without a choice."""
        prepared = self.augmentation.prepare(pixels[rows])
        return self.augmentation.cut(prepared, torch.arange(len(rows), device=rows.device), choice)


Augmentation = WeakViews | StrongViews | Unprepared


def stored_alike(weak: WeakViews | StrongViews, strong: StrongViews) -> tuple[Augmentation, StrongViews | Unprepared]:
    """Returns two augmentations of the same images, so that both take them as they are stored."""
    raw = isinstance(weak, StrongViews) and weak.strong.before_crop
    if raw == strong.strong.before_crop:
        return weak, strong
    return (weak, Unprepared(strong)) if raw else (Unprepared(weak), strong)
