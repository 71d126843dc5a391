"""All operations on a batch: each image goes through its own, with its own magnitude."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kdexp.data.randaugment.blends import blended, grey
from kdexp.data.randaugment.cutout import cut_out
from kdexp.data.randaugment.moves import moved
from kdexp.data.randaugment.steps import BLENDS, MOVES, NAMES, TABLES, replaced, within
from kdexp.data.randaugment.tables import looked_up

COLUMNS = 4
"""Numbers of a step for one image: the operation, its magnitude, and the place of a cutout, from 0 to below 1, y before x."""


@dataclass(frozen=True)
class Operations:
    """The operations with their colours, of one or three values: what comes from outside an image, and that of cutouts."""

    fill: Sequence[int]
    cutout_fill: Sequence[int]
    inclusive: bool
    """Whether cutouts begin anywhere and include the pixel in which they end."""

    def apply(self, pixels: Tensor, step: Tensor, names: Collection[str] = NAMES) -> Tensor:
        """Returns images uint8 [n, C, H, W] of one or three channels after one step, a row of `COLUMNS` numbers for each.

        `names` are the operations that may occur; leaving out others spares a GPU their arithmetic.
        """
        kind, amount, y, x = step.unbind(1)
        if not set(MOVES).isdisjoint(names):
            pixels = replaced(pixels, within(kind, MOVES), self._move, pixels, kind, amount)
        if not set(TABLES).isdisjoint(names):
            pixels = replaced(pixels, within(kind, TABLES), looked_up, pixels, kind, amount)
        if not set(BLENDS).isdisjoint(names):
            pixels = replaced(pixels, within(kind, BLENDS), blended, pixels, kind, amount)
        if "cutout" in names:
            pixels = replaced(pixels, within(kind, ("cutout",)), self._cut, pixels, amount, y, x)
        return pixels

    def _move(self, pixels: Tensor, kind: Tensor, amount: Tensor) -> Tensor:
        return moved(pixels, kind, amount, colour(self.fill, pixels))

    def _cut(self, pixels: Tensor, amount: Tensor, y: Tensor, x: Tensor) -> Tensor:
        return cut_out(pixels, amount, y, x, colour(self.cutout_fill, pixels), inclusive=self.inclusive)


def colour(values: Sequence[int], pixels: Tensor) -> Tensor:
    """Returns a colour of one or three values as uint8 [C], for images of one or three channels."""
    # Filled on the device: a copy from the host could not be recorded in a CUDA graph.
    parts = torch.stack([torch.full([], value, dtype=torch.uint8, device=pixels.device) for value in values])
    return grey(parts.view(1, -1, 1, 1)).flatten().expand(pixels.shape[1]) if pixels.shape[1] != len(values) else parts
