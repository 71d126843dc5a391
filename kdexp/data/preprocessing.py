"""Makes of any image what test images were for a network: a square of its size and channels, in 0..1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from kdexp.data.arrays import Layout, as_array, channels_last, with_channels
from kdexp.data.augmentation import centre
from kdexp.data.decoding import read_square, resized_square, square_of, why_unreadable
from kdexp.data.image_folder import stored_size
from kdexp.errors import UnfitImage
from kdexp.files import at_home


@dataclass(frozen=True)
class Preprocessing:
    """The shorter side is resized to `resize` pixels, and a central square of `crop` pixels is what remains."""

    channels: int
    resize: int
    crop: int

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Preprocessing:
        """That of a learner's test images, from the `data` of its spec."""
        return cls(data["in_channels"], stored_size(data), data["image_size"])

    def described(self) -> dict[str, Any]:
        """All steps as plain values, for programs without kdexp; normalising by mean and std comes after them."""
        return {
            "orientation": "exif",
            "transparency": "on white",
            "mode": {1: "L", 3: "RGB"}.get(self.channels),
            "resize": self.resize,
            "interpolation": "bilinear, antialiased",
            "crop": self.crop,
            "range": [0, 1],
            "layout": "NCHW",
        }

    def __call__(self, image: Any, layout: Layout | None = None) -> Tensor:
        """Returns a batch [N, C, crop, crop], float32 in 0..1, of one image, a batch or a list; raises `UnfitImage`.

        An image is a path, a Pillow image, or an array or tensor with channels first or last, uint8 in 0..255 or floating point
        in 0..1. An array or tensor with four axes is a batch.
        """
        return torch.cat([self._crop(self._square(each, layout)) for each in _images(image)])

    def squares(self, pixels: Tensor) -> Tensor:
        """Crops images [N, C, resize, resize], as decoding has them."""
        return centre(pixels, self.crop)

    def _crop(self, square: np.ndarray) -> Tensor:
        pixels = torch.from_numpy(np.array(square)).permute(2, 0, 1)[None]  # copied: Pillow's memory is not writable
        cropped = self.squares(pixels).contiguous()
        return cropped.float().div(255) if cropped.dtype == torch.uint8 else cropped

    def _square(self, image: Any, layout: Layout | None) -> np.ndarray:
        """An image as [resize, resize, channels], uint8 or float32."""
        if isinstance(image, str | Path | Image.Image):
            return self._decoded(image)
        array = channels_last(as_array(image), self.channels, layout)
        if array.dtype == np.uint8 and self.channels in (1, 3):
            return self._decoded(Image.fromarray(np.ascontiguousarray(array.squeeze(2) if array.shape[2] == 1 else array)))
        bands = np.moveaxis(with_channels(array, self.channels), 2, 0)
        resized = [resized_square(Image.fromarray(np.ascontiguousarray(band)), self.resize) for band in bands]
        return np.stack([np.asarray(band) for band in resized], axis=2)

    def _decoded(self, image: str | Path | Image.Image) -> np.ndarray:
        if self.channels not in (1, 3):
            raise UnfitImage(f"the network takes images of {self.channels} channels, which can only be arrays or tensors")
        if isinstance(image, Image.Image):
            try:
                return square_of(image, self.channels, self.resize)
            except (OSError, SyntaxError, ValueError) as error:  # Pillow reads a file's pixels only now
                raise UnfitImage(f"the image can't be used: {error}") from error
        path = at_home(image)
        try:
            return read_square(path, self.channels, self.resize)
        except Exception as error:  # Pillow raises anything on a damaged file
            raise UnfitImage(f"{path} can't be read: {why_unreadable(path, error)}") from error


def _images(given: Any) -> Sequence[Any]:
    """The single images of what `Preprocessing` was given."""
    if isinstance(given, list | tuple):
        if not given:
            raise UnfitImage("there is no image in an empty list")
        return given
    if getattr(given, "ndim", None) == 4 and len(given):
        return list(given)
    return [given]
