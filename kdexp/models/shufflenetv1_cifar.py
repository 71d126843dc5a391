"""ShuffleNet for 32×32 images (Zhang et al. 2017, arXiv 1707.01083), as in Tian et al. 2020 (CRD, arXiv 1910.10699).

The stem is a 1×1 convolution without pooling, and the depthwise convolution is followed by a ReLU.
"""

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from kdexp.configuration.arguments import Blocks, Checked, Count, Width
from kdexp.errors import InvalidArguments, Problem
from kdexp.network.landmarks import Landmarks

STEM = 24


class Block(nn.Module):
    """Grouped 1×1, depthwise 3×3 and grouped 1×1 convolution, with channels shuffled after the first.

    The result is added to the input, or at stride 2 concatenated with its 3×3 averages; both give `outs` channels.
    """

    def __init__(self, ins: int, outs: int, stride: int, groups: int):
        super().__init__()
        own = outs if stride == 1 else outs - ins
        inner, first = own // 4, 1 if ins == STEM else groups
        self.narrow = nn.Sequential(nn.Conv2d(ins, inner, 1, groups=first, bias=False), nn.BatchNorm2d(inner), nn.ReLU())
        self.groups = first
        self.residual = nn.Sequential(
            nn.Conv2d(inner, inner, 3, stride, padding=1, groups=inner, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            nn.Conv2d(inner, own, 1, groups=groups, bias=False),
            nn.BatchNorm2d(own),
        )
        self.pool = nn.AvgPool2d(3, stride=2, padding=1) if stride == 2 else None
        self.relu = nn.ReLU()

    def forward(self, image: Tensor) -> Tensor:
        shuffled = self.narrow(image).unflatten(1, (self.groups, -1)).transpose(1, 2).flatten(1, 2)
        residual = self.residual(shuffled)
        return self.relu(residual + image if self.pool is None else torch.cat([residual, self.pool(image)], 1))


class ShuffleNetV1(nn.Module, Checked):
    """Stages that each halve the maps; `blocks` and `widths` are one per stage; `image` [N, C, H, W] to logits [N, K]."""

    def __init__(
        self,
        *,
        num_classes: Count,
        in_channels: Count,
        image_size: Count,
        blocks: list[Blocks],
        widths: list[Width],
        groups: Literal[1, 2, 3],
    ):
        super().__init__()
        _check(blocks, widths, groups)
        self.stem = nn.Sequential(nn.Conv2d(in_channels, STEM, 1, bias=False), nn.BatchNorm2d(STEM), nn.ReLU())
        self.stages = nn.Sequential(
            *(
                nn.Sequential(Block(ins, outs, 2, groups), *(Block(outs, outs, 1, groups) for _ in range(count - 1)))
                for (ins, outs), count in zip(pairwise([STEM, *widths]), blocks, strict=True)
            )
        )
        self.classifier = nn.Linear(widths[-1], num_classes)
        names = tuple(f"stages.{number}" for number in range(len(blocks)))
        self.landmarks = Landmarks(
            classifier="classifier",
            last_map=names[-1],
            stages=names,
            preactivations=tuple(f"{name}.{count - 1}.relu.input" for name, count in zip(names, blocks, strict=True)),
        )

    def forward(self, image: Tensor) -> Tensor:
        return self.classifier(self.stages(self.stem(image)).mean((2, 3)))


def _check(blocks: list[int], widths: list[int], groups: int) -> None:
    if not blocks or len(blocks) != len(widths):
        raise InvalidArguments([Problem("blocks", f"={blocks}: must be as many as widths={widths}, one per stage")])
    if any(ins >= outs or outs % (4 * groups) for ins, outs in pairwise([STEM, *widths])):
        rule = f"must be multiples of {4 * groups} (4 × groups) that grow from {STEM}, the width of the stem"
        raise InvalidArguments([Problem("widths", f"={widths}: {rule}")])
