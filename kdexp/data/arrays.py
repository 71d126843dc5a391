"""Images as arrays: finds out which axis holds the channels, checks the values, and converts the channels."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from torch import Tensor

from kdexp.errors import UnfitImage

Layout = Literal["CHW", "HWC"]

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Weights of red, green and blue in grey (ITU-R BT.601), as Pillow has them."""
SLACK = 1e-3
"""How far floats may lie outside 0..1, as rounding may have moved them."""


def as_array(image: Any) -> np.ndarray:
    """Returns a tensor or an array as uint8 in 0..255 or float32 in 0..1; raises `UnfitImage` for all else."""
    if isinstance(image, Tensor):
        image = image.detach().cpu()
        image = (image.float() if image.is_floating_point() else image).numpy()
    if not isinstance(image, np.ndarray):
        raise UnfitImage(f"an image can't be a {type(image).__name__}: pass a Pillow image, an array, a tensor or a path")
    if image.dtype == np.uint8:
        return image
    if image.dtype.kind != "f":
        raise UnfitImage(f"the image is {image.dtype}: pass uint8 in 0..255, or floating point in 0..1")
    if image.size and not (image.min() >= -SLACK and image.max() <= 1 + SLACK):  # nan included
        values = f"from {image.min():.4g} to {image.max():.4g}"
        raise UnfitImage(f"the image has values {values}: floating point must be in 0..1 and not normalised; or pass uint8")
    return image.astype(np.float32, copy=False)


def channels_last(image: np.ndarray, channels: int, layout: Layout | None = None) -> np.ndarray:
    """Returns one image [H, W], [C, H, W] or [H, W, C] as [H, W, C], where C can be converted to `channels`.

    Raises `UnfitImage` if no axis has such a number of channels, or if both may have and no `layout` says which.
    """
    if image.ndim == 2:
        image, layout = image[..., None], "HWC"
    if image.ndim != 3 or 0 in image.shape:
        raise UnfitImage(f"an image can't have the shape {list(image.shape)}: pass [H, W], [C, H, W] or [H, W, C]")
    known = {1, 3, 4, channels} if channels in (1, 3) else {channels}
    fitting: list[Layout] = [name for name, axis in _AXES.items() if image.shape[axis] in known]
    if layout is None and len(fitting) == 2:
        raise UnfitImage(
            f"an image of shape {list(image.shape)} may have its channels first or last: "
            'say which, preprocess(image, layout="CHW") or layout="HWC"'
        )
    chosen = layout or next(iter(fitting), None)
    if chosen is None or chosen not in fitting:
        counts = " or ".join(map(str, sorted(known)))
        where = f" in the layout {layout}" if layout else ""
        raise UnfitImage(f"an image of shape {list(image.shape)} has no axis of {counts} channels{where}")
    return np.moveaxis(image, _AXES[chosen], 2)


_AXES: dict[Layout, int] = {"CHW": 0, "HWC": 2}


def with_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """Returns a float image [H, W, C] with 1 or 3 channels, as Pillow converts 8-bit ones; raises `UnfitImage` for four."""
    if image.shape[2] == channels:
        return image
    if image.shape[2] == 4:
        raise UnfitImage("an image with transparency must be a Pillow image or uint8, not floating point")
    return (image @ LUMA)[..., None] if channels == 1 else image.repeat(channels, 2)
