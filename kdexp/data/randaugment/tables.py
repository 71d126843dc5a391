"""Operations that look each pixel up in a table of 256 values per image and channel; bit-equal to Pillow's `ImageOps`."""

from __future__ import annotations

import torch
from torch import Tensor

from kdexp.data.randaugment.steps import NUMBERS, TABLES, doubles, replaced


def looked_up(pixels: Tensor, kind: Tensor, amount: Tensor) -> Tensor:
    """Returns images [n, C, H, W], each changed by its table.

    `amount` [n] is the number of bits that posterize keeps, at least one, or the value from which solarize inverts.
    """
    tables = _levels(pixels).expand(*pixels.shape[:2], 256)
    for name in TABLES:
        tables = replaced(tables, kind == NUMBERS[name], MAKERS[name], pixels, amount)
    return tables.gather(2, pixels.flatten(2).long()).view_as(pixels)


def _levels(pixels: Tensor) -> Tensor:
    return torch.arange(256, dtype=torch.uint8, device=pixels.device)


def autocontrast(pixels: Tensor, _amount: Tensor) -> Tensor:
    """Returns tables [n, C, 256] that stretch each channel to 0 to 255; a flat channel stays as it is."""
    low, high = (doubles(edge) for edge in pixels.flatten(2).aminmax(dim=2, keepdim=True))
    # A quotient of tensors: torch computes number / tensor with a reciprocal, which rounds twice.
    scale = torch.full_like(low, 255) / (high - low).clamp(min=1)
    levels = _levels(low)
    stretched = (levels * scale + -low * scale).clamp(0, 255).to(torch.uint8)
    return torch.where(high > low, stretched, levels).to(pixels.device)


def equalize(pixels: Tensor, _amount: Tensor) -> Tensor:
    """Returns tables [n, C, 256] that make the histogram of each channel even; one of too few values stays as it is."""
    values = pixels.flatten(2).long()
    counts = torch.zeros(*pixels.shape[:2], 256, dtype=torch.int64, device=pixels.device)
    counts.scatter_add_(2, values, torch.ones_like(values))
    most = counts.gather(2, values.amax(2, keepdim=True))
    step = (values.shape[2] - most) // 255
    below = counts.cumsum(2) - counts
    even = ((step // 2 + below) // step.clamp(min=1)).clamp(max=255).to(torch.uint8)
    return torch.where(step > 0, even, _levels(pixels))


def invert(pixels: Tensor, _amount: Tensor) -> Tensor:
    """Returns tables [n, C, 256] of negatives."""
    return (255 - _levels(pixels)).expand(*pixels.shape[:2], 256)


def posterize(pixels: Tensor, amount: Tensor) -> Tensor:
    """Returns tables [n, C, 256] that keep the highest bits."""
    bits = amount.int().clamp(1, 8)
    mask = (256 - torch.ones_like(bits).bitwise_left_shift(8 - bits)).to(torch.uint8)
    return (_levels(pixels) & mask[:, None]).unsqueeze(1).expand(-1, pixels.shape[1], -1)


def solarize(pixels: Tensor, amount: Tensor) -> Tensor:
    """Returns tables [n, C, 256] that invert what is not below a threshold."""
    levels = _levels(pixels)
    return torch.where(levels < amount[:, None], levels, 255 - levels).unsqueeze(1).expand(-1, pixels.shape[1], -1)


MAKERS = {made.__name__: made for made in (autocontrast, equalize, invert, posterize, solarize)}
