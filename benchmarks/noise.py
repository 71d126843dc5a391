"""Generated images of CIFAR's shape: speed does not depend on their content."""

from __future__ import annotations

import torch

from kdexp.configuration.arguments import Count
from kdexp.data.dataset import ImageDataset
from kdexp.data.images import RawImages


class Noise(ImageDataset):
    """32×32 colour images, a pattern per class plus noise, so that there is something to learn."""

    in_channels = 3
    image_size = 32

    def __init__(self, *, images: Count, tests: Count, num_classes: Count, **shared):
        super().__init__(**shared)
        self.images, self.tests, self.num_classes = images, tests, num_classes

    def read(self) -> tuple[RawImages, RawImages]:
        generator = torch.Generator().manual_seed(0)
        patterns = torch.randint(64, (self.num_classes, 3, 32, 32), generator=generator)
        return self._drawn(self.images, patterns, generator), self._drawn(self.tests, patterns, generator)

    def _drawn(self, count: int, patterns: torch.Tensor, generator: torch.Generator) -> RawImages:
        labels = torch.arange(count) % self.num_classes
        noise = torch.randint(192, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
        return RawImages(noise + patterns[labels].byte(), labels)
