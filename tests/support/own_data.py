"""A user's own data set, named by `_target_` in tests."""

import torch

from kdexp.configuration.arguments import Count
from kdexp.data.dataset import ImageDataset
from kdexp.data.images import RawImages


class Squares(ImageDataset):
    """Noise with a brighter quadrant that determines one of four classes, in any size and number of channels."""

    num_classes = 4

    def __init__(self, *, image_size: Count, in_channels: Count, images: Count, **shared):
        self.image_size, self.in_channels, self.images = image_size, in_channels, images
        super().__init__(**shared)

    def read(self):
        return self._draw(seed=0), self._draw(seed=1)

    def _draw(self, seed):
        generator = torch.Generator().manual_seed(seed)
        size, half = (self.images, self.in_channels, self.image_size, self.image_size), self.image_size // 2
        pixels = torch.randint(0, 100, size, generator=generator, dtype=torch.uint8)
        labels = torch.arange(self.images) % self.num_classes
        for number, label in enumerate(labels.tolist()):
            row, column = half * (label // 2), half * (label % 2)
            pixels[number, :, row : row + half, column : column + half] += 100
        return RawImages(pixels, labels)
