"""One step of RandAugment for a batch: the operation of each image, by number, and how only some images are changed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

MOVES = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
TABLES = ("autocontrast", "equalize", "invert", "posterize", "solarize")
BLENDS = ("brightness", "contrast", "color", "sharpness")
NAMES = ("identity", *MOVES, *TABLES, *BLENDS, "cutout")
"""All operations; a step holds their positions here as numbers."""

NUMBERS = {name: float(number) for number, name in enumerate(NAMES)}


def fixed_shapes(device: torch.device) -> bool:
    """Whether all images go through all operations: only the CPU knows without waiting how many have which."""
    return device.type != "cpu"


def replaced(target: Tensor, chosen: Tensor, compute: Callable[..., Tensor], *given: Tensor) -> Tensor:
    """Returns a copy of `target` [n, ...] whose chosen rows, a mask [n], are what `compute` makes of those rows of `given`.

    On a GPU all rows are computed, and those that were not chosen thrown away. That takes more arithmetic, but the host never
    waits for the device, and a CUDA graph can record it.
    """
    if fixed_shapes(target.device):
        return torch.where(chosen.view(-1, *[1] * (target.dim() - 1)), compute(*given), target)
    rows = chosen.nonzero().flatten()
    if len(rows) in (0, len(target)):
        return compute(*given) if len(rows) else target
    made = compute(*(values.index_select(0, rows) for values in given))
    # Whole rows are copied several times faster than by `index_copy`.
    source = torch.arange(len(target)).index_copy_(0, rows, torch.arange(len(target), len(target) + len(rows)))
    return torch.cat([target, made]).index_select(0, source)


def within(kind: Tensor, names: tuple[str, ...]) -> Tensor:
    """Returns a mask [n] of the images whose operation is one of these, which are neighbours in `NAMES`."""
    return (kind >= NUMBERS[names[0]]) & (kind <= NUMBERS[names[-1]])


def doubles(values: Tensor) -> Tensor:
    """Returns the values in float64, which Pillow computes in; on the CPU if the device has no such numbers."""
    return values.to("cpu" if values.device.type == "mps" else values.device, torch.float64)
