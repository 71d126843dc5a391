"""Operations that mix an image with a degenerate one, in fp32; bit-equal to Pillow's `ImageEnhance`."""

from __future__ import annotations

import torch
from torch import Tensor

from kdexp.data.randaugment.steps import NUMBERS, replaced


def blended(pixels: Tensor, kind: Tensor, factor: Tensor) -> Tensor:
    """Returns images [n, C, H, W], each mixed with its degenerate: factor 0 gives that, 1 the image, more exaggerates."""
    images = pixels.float()
    degenerate = torch.zeros_like(images)  # of brightness: black
    for name, make in MAKERS.items():
        degenerate = replaced(degenerate, kind == NUMBERS[name], make, images)
    factor = factor.view(-1, 1, 1, 1)
    return (images - degenerate).mul_(factor).add_(degenerate).clamp_(0, 255).to(torch.uint8)


def grey(images: Tensor) -> Tensor:
    """Returns the luminance [n, 1, H, W] of images [n, C, H, W] in whole numbers, as Pillow weighs it (ITU-R 601-2)."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.int().unbind(1)
    return ((19595 * red + 38470 * green + 7471 * blue + 32768) >> 16).unsqueeze(1).to(images.dtype)


def contrast(images: Tensor) -> Tensor:
    """Returns the mean luminance of each image, rounded."""
    sums, count = grey(images).long().sum((1, 2, 3)), images[0, 0].numel()
    return ((2 * sums + count) // (2 * count)).to(images.dtype).view(-1, 1, 1, 1).expand_as(images)


def color(images: Tensor) -> Tensor:
    """Returns the images without colours; an image of one channel is its own."""
    return grey(images).expand_as(images)


def sharpness(images: Tensor) -> Tensor:
    """Returns the images smoothed by 3×3 weights of 1, in the middle 5; the border stays."""
    rows = images[:, :, :-2] + images[:, :, 1:-1] + images[:, :, 2:]
    sums = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * images[:, :, 1:-1, 1:-1]
    smooth = images.clone()
    # Exactly rounded: a thirteenth of a whole number is at least 1/26 away from a half.
    smooth[:, :, 1:-1, 1:-1] = (sums / 13 + 0.5).floor()
    return smooth


MAKERS = {made.__name__: made for made in (contrast, color, sharpness)}
