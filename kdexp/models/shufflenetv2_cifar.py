"""ShuffleNetV2 for 32×32 images (Ma et al. 2018, arXiv 1807.11164), as in Tian et al. 2020 (CRD, arXiv 1910.10699).

The stem is a 1×1 convolution without pooling.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from kdexp.configuration.arguments import Blocks, Checked, Count, Width
from kdexp.errors import InvalidArguments, Problem
from kdexp.network.landmarks import Landmarks

STEM = 24


def _pointwise(ins: int, outs: int) -> list[nn.Module]:
    return [nn.Conv2d(ins, outs, 1, bias=False), nn.BatchNorm2d(outs)]


def _depthwise(width: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(width, width, 3, stride, padding=1, groups=width, bias=False), nn.BatchNorm2d(width)]


class Block(nn.Module):
    """Keeps half of the channels and convolves the other half (at stride 2: all channels in both branches), then shuffles.

    One ReLU after the concatenation replaces those at the end of both branches; kept channels are not negative already.
    """

    def __init__(self, ins: int, outs: int, stride: int):
        super().__init__()
        half = outs // 2
        self.left = nn.Sequential(*_depthwise(ins, 2), *_pointwise(ins, half)) if stride == 2 else None
        self.right = nn.Sequential(
            *_pointwise(ins if stride == 2 else half, half), nn.ReLU(), *_depthwise(half, stride), *_pointwise(half, half)
        )
        self.relu = nn.ReLU()

    def forward(self, image: Tensor) -> Tensor:
        left, right = image.chunk(2, 1) if self.left is None else (self.left(image), image)
        joined = self.relu(torch.cat([left, self.right(right)], 1))
        return joined.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)


class ShuffleNetV2(nn.Module, Checked):
    """Stages that each halve the maps, and a 1×1 convolution to `head` channels; `image` [N, C, H, W] to logits [N, K].

    `blocks` and `widths` are one per stage. The last map is the last stage's, before that convolution.
    """

    def __init__(
        self,
        *,
        num_classes: Count,
        in_channels: Count,
        image_size: Count,
        blocks: list[Blocks],
        widths: list[Width],
        head: Width,
    ):
        super().__init__()
        _check(blocks, widths)
        self.stem = nn.Sequential(*_pointwise(in_channels, STEM), nn.ReLU())
        self.stages = nn.Sequential(
            *(
                nn.Sequential(Block(ins, outs, 2), *(Block(outs, outs, 1) for _ in range(count - 1)))
                for (ins, outs), count in zip(pairwise([STEM, *widths]), blocks, strict=True)
            )
        )
        self.head = nn.Sequential(*_pointwise(widths[-1], head), nn.ReLU())
        self.classifier = nn.Linear(head, num_classes)
        names = tuple(f"stages.{number}" for number in range(len(blocks)))
        self.landmarks = Landmarks(
            classifier="classifier",
            last_map=names[-1],
            stages=names,
            preactivations=tuple(f"{name}.{count - 1}.relu.input" for name, count in zip(names, blocks, strict=True)),
            head=("head",),
        )

    def forward(self, image: Tensor) -> Tensor:
        return self.classifier(self.head(self.stages(self.stem(image))).mean((2, 3)))


def _check(blocks: list[int], widths: list[int]) -> None:
    if not blocks or len(blocks) != len(widths):
        raise InvalidArguments([Problem("blocks", f"={blocks}: must be as many as widths={widths}, one per stage")])
    if any(width % 2 for width in widths):
        raise InvalidArguments([Problem("widths", f"={widths}: must be even, as channels are split into halves")])
