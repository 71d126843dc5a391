"""All operations on a batch: each image goes through its own, with its own magnitude."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kdexp.data.randaugment.blends import blended, grey
from kdexp.data.randaugment.cutout import cut_out
from kdexp.data.randaugment.moves import moved
from kdexp.data.randaugment.steps import BLENDS, MOVES, TABLES, replaced, within
from kdexp.data.randaugment.tables import looked_up

COLUMNS = 4
"""Numbers of a step for one image: the operation, its magnitude, and the place of a cutout, from 0 to below 1, y before x."""


def operate(pixels: Tensor, step: Tensor, fill: Sequence[int], cutout_fill: Sequence[int], *, inclusive: bool) -> Tensor:
    """Returns images uint8 [n, C, H, W] of one or three channels after one step, given by a row [4] of numbers for each."""
    kind, amount, y, x = step.unbind(1)

    def move(images: Tensor, kind: Tensor, amount: Tensor) -> Tensor:
        return moved(images, kind, amount, colour(fill, pixels))

    def cut(images: Tensor, amount: Tensor, y: Tensor, x: Tensor) -> Tensor:
        return cut_out(images, amount, y, x, colour(cutout_fill, pixels), inclusive=inclusive)

    pixels = replaced(pixels, within(kind, MOVES), move, pixels, kind, amount)
    pixels = replaced(pixels, within(kind, TABLES), looked_up, pixels, kind, amount)
    pixels = replaced(pixels, within(kind, BLENDS), blended, pixels, kind, amount)
    return replaced(pixels, within(kind, ("cutout",)), cut, pixels, amount, y, x)


def colour(values: Sequence[int], pixels: Tensor) -> Tensor:
    """Returns a colour of one or three values as uint8 [C], for images of one or three channels."""
    # Filled on the device: a copy from the host could not be recorded in a CUDA graph.
    parts = torch.stack([torch.full([], value, dtype=torch.uint8, device=pixels.device) for value in values])
    return grey(parts.view(1, -1, 1, 1)).flatten().expand(pixels.shape[1]) if pixels.shape[1] != len(values) else parts
