"""A plain convolutional net with batch norm, for images as small as the embedded digits."""

from itertools import pairwise

from torch import Tensor, nn

from kdexp.configuration.arguments import Checked, Count, Width
from kdexp.errors import InvalidArguments, Problem
from kdexp.models.pooling import MaxPool2x2
from kdexp.network.landmarks import Landmarks


class Stage(nn.Sequential):
    """A 3×3 convolution, batch norm and ReLU, for all stages but the first after pooling to half the size."""

    def __init__(self, ins: int, outs: int, *, pooled: bool):
        pool = [MaxPool2x2()] if pooled else []
        super().__init__(*pool, nn.Conv2d(ins, outs, 3, padding=1, bias=False), nn.BatchNorm2d(outs), nn.ReLU())


class ConvNet(nn.Module, Checked):
    """A stage for each of the `widths`, then the mean over positions; `image` [N, C, H, W] to logits [N, K]."""

    def __init__(self, *, num_classes: Count, in_channels: Count, image_size: Count, widths: list[Width]):
        super().__init__()
        if not widths or image_size < 2 ** (len(widths) - 1):
            most = f"of images of {image_size} pixels, at most {image_size.bit_length()} stages"
            raise InvalidArguments([Problem("widths", f"={widths!r}: must be the channels of one or more stages; {most}")])
        self.stages = nn.Sequential(
            *(Stage(ins, outs, pooled=at > 0) for at, (ins, outs) in enumerate(pairwise([in_channels, *widths])))
        )
        self.classifier = nn.Linear(widths[-1], num_classes)
        names = tuple(f"stages.{at}" for at in range(len(widths)))
        self.landmarks = Landmarks(classifier="classifier", last_map=names[-1], stages=names)

    def forward(self, image: Tensor) -> Tensor:
        return self.classifier(self.stages(image).mean((2, 3)))
