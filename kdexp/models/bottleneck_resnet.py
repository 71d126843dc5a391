"""Deep residual nets of bottleneck blocks (He et al. 2016, arXiv 1512.03385) with a stem for 32×32 images."""

from torch import Tensor, nn

from kdexp.configuration.arguments import Blocks, Checked, Count
from kdexp.errors import InvalidArguments, Problem
from kdexp.network.landmarks import Landmarks

WIDTHS = (64, 128, 256, 512)
EXPANSION = 4
"""Ratio of a block's output channels to those of its 3×3 convolution."""


class Bottleneck(nn.Module):
    """1×1, 3×3 (with the stride) and 1×1 convolution, added to the input, then ReLU."""

    def __init__(self, ins: int, inner: int, stride: int):
        super().__init__()
        outs = EXPANSION * inner
        self.residual = nn.Sequential(
            nn.Conv2d(ins, inner, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            nn.Conv2d(inner, inner, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            nn.Conv2d(inner, outs, 1, bias=False),
            nn.BatchNorm2d(outs),
        )
        self.shortcut = nn.Sequential()
        if stride != 1 or ins != outs:
            self.shortcut = nn.Sequential(nn.Conv2d(ins, outs, 1, stride, bias=False), nn.BatchNorm2d(outs))
        self.relu = nn.ReLU()

    def forward(self, image: Tensor) -> Tensor:
        return self.relu(self.shortcut(image) + self.residual(image))


class BottleneckResNet(nn.Module, Checked):
    """Four stages of `blocks` at strides 1, 2, 2, 2; `image` [N, C, H, W] to logits [N, K]."""

    def __init__(self, *, num_classes: Count, in_channels: Count, image_size: Count, blocks: list[Blocks]):
        super().__init__()
        if len(blocks) != len(WIDTHS):
            raise InvalidArguments([Problem("blocks", f"={blocks}: must be four numbers, one per stage")])
        outs = WIDTHS[0]
        self.stem = nn.Sequential(nn.Conv2d(in_channels, outs, 3, padding=1, bias=False), nn.BatchNorm2d(outs), nn.ReLU())
        stages = []
        for inner, count, stride in zip(WIDTHS, blocks, (1, 2, 2, 2), strict=True):
            ins, outs = outs, EXPANSION * inner
            stages.append(
                nn.Sequential(Bottleneck(ins, inner, stride), *(Bottleneck(outs, inner, 1) for _ in range(count - 1)))
            )
        self.stages = nn.Sequential(*stages)
        self.classifier = nn.Linear(outs, num_classes)
        names = tuple(f"stages.{number}" for number in range(len(blocks)))
        self.landmarks = Landmarks(
            classifier="classifier",
            last_map=names[-1],
            stages=names,
            preactivations=tuple(f"{name}.{count - 1}.relu.input" for name, count in zip(names, blocks, strict=True)),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> Tensor:
        return self.classifier(self.stages(self.stem(image)).mean((2, 3)))
