"""Rotating, shearing and translating by nearest neighbours: each pixel is taken from one place. Bit-equal to Pillow."""

from __future__ import annotations

import torch
from torch import Tensor

from kdexp.data.randaugment.steps import NUMBERS, doubles


def moved(pixels: Tensor, kind: Tensor, amount: Tensor, fill: Tensor) -> Tensor:
    """Returns images [n, C, H, W], each moved in its way; what comes from outside is `fill` [C].

    `amount` [n] is in degrees counter-clockwise, in columns per row (or rows per column), or a share of the side.
    """
    count, channels, height, width = pixels.shape
    ax, ay, a0, bx, by, b0 = _fixed_point(kind, amount, height, width).to(pixels.device)[:, :, None, None].unbind(1)
    x = torch.arange(width, dtype=torch.int32, device=pixels.device)
    y = torch.arange(height, dtype=torch.int32, device=pixels.device)[:, None]
    column, row = ((ax * x + (ay * y + a0)) >> 16).squeeze(1), ((bx * x + (by * y + b0)) >> 16).squeeze(1)
    outside = (column < 0) | (column >= width) | (row < 0) | (row >= height)
    place = (row * width + column).masked_fill_(outside, height * width).view(count, 1, -1).long()
    # The filling is one more pixel, behind the last.
    source = torch.cat([pixels.flatten(2), fill.view(1, -1, 1).expand(count, -1, 1)], 2)
    return source.gather(2, place.expand(-1, channels, -1)).view_as(pixels)


def _fixed_point(kind: Tensor, amount: Tensor, height: int, width: int) -> Tensor:
    """Returns maps [n, 6] from a pixel's place to its origin, int32 with 16 bits behind the point, rounded as in Pillow."""
    kind, amount = doubles(kind), doubles(amount)
    rotates = kind == NUMBERS["rotate"]
    angle = -torch.deg2rad(amount.remainder(360)) * rotates
    cos, sin = angle.cos().round(decimals=15), angle.sin().round(decimals=15)
    ay = sin + amount * (kind == NUMBERS["shear_x"])
    bx = -sin + amount * (kind == NUMBERS["shear_y"])
    # Pillow translates in whole pixels.
    a0 = (amount * width + 0.5).floor() * (kind == NUMBERS["translate_x"])
    b0 = (amount * height + 0.5).floor() * (kind == NUMBERS["translate_y"])
    middle_x, middle_y = width / 2, height / 2
    a0 = a0 + rotates * ((-cos * middle_x - sin * middle_y) + middle_x)
    b0 = b0 + rotates * ((sin * middle_x - cos * middle_y) + middle_y)
    a0, b0 = a0 + cos * 0.5 + ay * 0.5, b0 + bx * 0.5 + cos * 0.5
    return (torch.stack([cos, ay, a0, bx, cos, b0], 1) * 65536 + 0.5).floor().int()
