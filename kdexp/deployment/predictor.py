"""A trained network with its preprocessing, as a plain module."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kdexp.data.arrays import Layout
from kdexp.data.preprocessing import Preprocessing
from kdexp.errors import UnfitImage


class Predictor(nn.Module):
    """A trained network in evaluation mode that normalises images itself.

    `image` [N, C, H, W] is uint8 in 0..255 or floating point in 0..1, of the size that the network was trained on; the output
    is logits [N, K]. `classes` are the names of the K classes, if the data set has any.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        mean: list[float],
        std: list[float],
        preprocessing: Preprocessing,
        classes: list[str] | None = None,
    ):
        super().__init__()
        self.network = network
        self.preprocessing = preprocessing
        self.classes = classes
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))
        self.eval()

    def forward(self, image: Tensor, resize: bool = False) -> Tensor:
        """Returns logits; raises `UnfitImage` for images of another size, unless `resize` makes them fit."""
        if resize:
            image = self.preprocess(image, layout="CHW")
        self._check(image)
        scaled = image.float().div(255) if image.dtype == torch.uint8 else image
        return self.network((scaled - self.mean) / self.std)

    def preprocess(self, image: Any, layout: Layout | None = None) -> Tensor:
        """Returns a batch [N, C, H, W] for this network, in 0..1, of an image of any size, a batch or a list of images.

        An image is a path, a Pillow image, or an array or tensor, uint8 in 0..255 or floating point in 0..1, with its channels
        first or last; `layout` (`CHW` or `HWC`) says which if the shape does not. It is resized, cropped and converted as the
        test images were on which the network was evaluated. Raises `UnfitImage`.
        """
        return self.preprocessing(image, layout).to(self.mean.device)

    def _check(self, image: Any) -> None:
        channels, size = self.preprocessing.channels, self.preprocessing.crop
        if not isinstance(image, Tensor):
            raise UnfitImage(f"{type(image).__name__} is no tensor: student.preprocess(image) makes one of it")
        if image.shape[1:] != (channels, size, size):
            raise UnfitImage(
                f"images of shape {list(image.shape)}, but the network was trained on [N, {channels}, {size}, {size}]: "
                "student(student.preprocess(image)), or student(images, resize=True), makes them fit"
            )
