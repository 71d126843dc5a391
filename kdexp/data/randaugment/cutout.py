"""Cutout: a square of one colour at a random place, cut off at the border (DeVries and Taylor 2017, arXiv 1708.04552)."""

from __future__ import annotations

import torch
from torch import Tensor

from kdexp.data.randaugment.steps import doubles


def cut_out(pixels: Tensor, share: Tensor, y: Tensor, x: Tensor, fill: Tensor, *, inclusive: bool) -> Tensor:
    """Returns images [n, C, H, W] with a square each; `share` [n] is its side as a share of the image's width.

    Its centre is `y`, `x` [n], from 0 to below 1. Usually it is a whole pixel, and the side a whole, even number of pixels. If
    `inclusive`, neither is rounded, and the square includes the pixel in which it ends, as Pillow draws rectangles.
    """
    height, width = pixels.shape[2:]
    side = doubles(share) * width
    rows, columns = (_covered(doubles(at) * length, side, length, inclusive) for at, length in ((y, height), (x, width)))
    inside = (rows[:, :, None] & columns[:, None, :]).unsqueeze(1).to(pixels.device, torch.uint8)
    return pixels * (1 - inside) + fill.view(-1, 1, 1) * inside


def _covered(centre: Tensor, side: Tensor, length: int, inclusive: bool) -> Tensor:
    """Returns a mask [n, length] of the pixels between the edges of the square along one axis."""
    if inclusive:
        first = (centre - side / 2).clamp(min=0).floor()
        end = torch.where(side > 0, (first + side).clamp(max=length).floor() + 1, first)
    else:
        centre, half = centre.floor().clamp(max=length - 1), (side / 2).floor()
        first, end = centre - half, centre + half
    place = torch.arange(length, device=side.device)
    return (place >= first[:, None]) & (place < end[:, None])
