"""Rotating, shearing and translating by nearest neighbours: each pixel is taken from one place. Bit-equal to Pillow."""

from __future__ import annotations

import torch
from torch import Tensor

from kdexp.data.randaugment.steps import NUMBERS, doubles

ONE = 2**16
"""One pixel in numbers with 16 bits behind the point."""


def moved(pixels: Tensor, kind: Tensor, amount: Tensor, fill: Tensor) -> Tensor:
    """Returns images [n, C, H, W], each moved in its way; what comes from outside is `fill` [C].

    `amount` [n] is in degrees counter-clockwise, in columns per row (or rows per column), or a share of the side.
    """
    count, channels, height, width = pixels.shape
    ax, ay, a0, bx, by, b0 = _fixed_point(kind, amount, height, width).to(pixels.device).view(count, 6, 1, 1).unbind(1)
    x = torch.arange(width, dtype=torch.int32, device=pixels.device)
    y = torch.arange(height, dtype=torch.int32, device=pixels.device)[:, None]
    # What lies outside is found on a border of one pixel.
    source = fill.view(1, -1, 1, 1).repeat(count, 1, height + 2, width + 2)
    source[:, :, 1:-1, 1:-1] = pixels
    column = (ax * x + (ay * y + (a0 + ONE))).bitwise_right_shift_(16).clamp_(0, width + 1)
    row = (bx * x + (by * y + (b0 + ONE))).bitwise_right_shift_(16).clamp_(0, height + 1)
    place = row.mul_(width + 2).add_(column).view(count, 1, -1).long()
    return source.flatten(2).gather(2, place.expand(-1, channels, -1)).view_as(pixels)


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
    return (torch.stack([cos, ay, a0, bx, cos, b0], 1) * ONE + 0.5).floor().int()
