"""MobileNetV2 for 32×32 images (Sandler et al. 2018, arXiv 1801.04381), as in Tian et al. 2020 (CRD, arXiv 1910.10699).

ReLU replaces ReLU6, the blocks of 24 channels keep the size of their maps, and the first block has an expanding convolution.
"""

from typing import Annotated

from torch import Tensor, nn

from kdexp.configuration.arguments import Checked, Count, Range
from kdexp.network.landmarks import Landmarks

STAGES = (
    ((1, 16, 1, 1), (6, 24, 2, 1)),
    ((6, 32, 3, 2),),
    ((6, 64, 4, 2), (6, 96, 3, 1)),
    ((6, 160, 3, 2), (6, 320, 1, 1)),
)
"""Rows of blocks: expansion, channels at width 1, number of blocks, stride of the first block."""

NAMES = tuple(f"stages.{number}" for number in range(len(STAGES)))
HEAD = 1280


def _convolution(ins: int, outs: int, kernel: int, *, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Returns a convolution that keeps the size at stride 1, and batch norm."""
    return [
        nn.Conv2d(ins, outs, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outs),
    ]


class Block(nn.Module):
    """Expanding, depthwise and narrowing convolution (without ReLU), added to the input if the shapes agree."""

    def __init__(self, ins: int, outs: int, stride: int, expansion: int):
        super().__init__()
        inner = ins * expansion
        self.adds = stride == 1 and ins == outs
        self.residual = nn.Sequential(
            *_convolution(ins, inner, 1),
            nn.ReLU(),
            *_convolution(inner, inner, 3, stride=stride, groups=inner),
            nn.ReLU(),
            *_convolution(inner, outs, 1),
        )

    def forward(self, image: Tensor) -> Tensor:
        return image + self.residual(image) if self.adds else self.residual(image)


class MobileNetV2(nn.Module, Checked):
    """Four stages of inverted bottlenecks without final ReLU, then a wide 1×1 convolution; [N, C, H, W] to logits [N, K].

    The last map is the last stage's, before that convolution. `width` multiplies the channels, rounded down; the last
    convolution has at least 1280.
    """

    landmarks = Landmarks(classifier="classifier", last_map=NAMES[-1], stages=NAMES, preactivations=NAMES, head=("head",))

    def __init__(
        self,
        *,
        num_classes: Count,
        in_channels: Count,
        image_size: Count,
        width: Annotated[float, Range(at_least=1 / 16, within=(1 / 16, 2**10))],
    ):
        super().__init__()
        outs = int(32 * width)
        self.stem = nn.Sequential(*_convolution(in_channels, outs, 3, stride=2), nn.ReLU())
        stages = []
        for rows in STAGES:
            stage = []
            for expansion, channels, blocks, stride in rows:
                for block in range(blocks):
                    ins, outs = outs, int(channels * width)
                    stage.append(Block(ins, outs, 1 if block else stride, expansion))
            stages.append(nn.Sequential(*stage))
        self.stages = nn.Sequential(*stages)
        last = int(HEAD * max(width, 1.0))
        self.head = nn.Sequential(*_convolution(outs, last, 1), nn.ReLU())
        self.classifier = nn.Linear(last, num_classes)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, image: Tensor) -> Tensor:
        return self.classifier(self.head(self.stages(self.stem(image))).mean((2, 3)))
