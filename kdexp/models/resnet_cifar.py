"""Residual nets for 32×32 images (He et al. 2016, arXiv 1512.03385), and the wider ones of distillation papers.

Blocks are activated after the addition. The networks that Chen et al. 2022 (SimKD, arXiv 2203.14001) call WRN, such as
resnet38x2, are of this kind too; `wide_resnet` has the actual wide residual nets.
"""

from torch import Tensor, nn

from kdexp.configuration.arguments import Checked, Count, Depth, Width
from kdexp.errors import InvalidArguments, Problem
from kdexp.network.landmarks import Landmarks


class Block(nn.Module):
    """Two 3×3 convolutions, added to the input, then ReLU: [N, ins, H, W] to [N, outs, H/stride, W/stride]."""

    def __init__(self, ins: int, outs: int, stride: int):
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(ins, outs, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(outs),
            nn.ReLU(),
            nn.Conv2d(outs, outs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outs),
        )
        self.shortcut = nn.Sequential()
        if stride != 1 or ins != outs:
            self.shortcut = nn.Sequential(nn.Conv2d(ins, outs, 1, stride, bias=False), nn.BatchNorm2d(outs))
        self.relu = nn.ReLU()

    def forward(self, image: Tensor) -> Tensor:
        return self.relu(self.shortcut(image) + self.residual(image))


class ResNet(nn.Module, Checked):
    """Three stages of n blocks at strides 1, 2, 2; `image` [N, C, H, W] to logits [N, K].

    `depth` is 6n + 2: two convolutions per block, the stem and the classifier. `widths` are the stem's and the stages'.
    """

    def __init__(self, *, num_classes: Count, in_channels: Count, image_size: Count, depth: Depth, widths: list[Width]):
        super().__init__()
        blocks = _blocks(depth, widths)
        stem, *outs = widths
        self.stem = nn.Sequential(nn.Conv2d(in_channels, stem, 3, padding=1, bias=False), nn.BatchNorm2d(stem), nn.ReLU())
        self.stages = nn.Sequential(
            *(
                nn.Sequential(Block(before, width, stride), *(Block(width, width, 1) for _ in range(blocks - 1)))
                for before, width, stride in zip(widths, outs, (1, 2, 2), strict=False)
            )
        )
        self.classifier = nn.Linear(outs[-1], num_classes)
        self.landmarks = Landmarks(
            classifier="classifier",
            last_map="stages.2",
            stages=("stages.0", "stages.1", "stages.2"),
            preactivations=tuple(f"stages.{stage}.{blocks - 1}.relu.input" for stage in range(3)),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> Tensor:
        return self.classifier(self.stages(self.stem(image)).mean((2, 3)))


def _blocks(depth: int, widths: list[int]) -> int:
    """Returns the number of blocks per stage; raises `InvalidArguments`."""
    found = []
    if depth < 8 or (depth - 2) % 6:
        below = max(depth - (depth - 2) % 6, 8)
        found.append(Problem("depth", f"={depth}: must be 6n+2 for n blocks per stage, such as {below} or {below + 6}"))
    if len(widths) != 4:
        found.append(Problem("widths", f"={widths}: must be four, of the stem and of the three stages"))
    if found:
        raise InvalidArguments(found)
    return (depth - 2) // 6
