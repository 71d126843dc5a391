"""Wide residual nets for 32×32 images (Zagoruyko & Komodakis 2016, arXiv 1605.07146), activated before the convolutions."""

from itertools import pairwise

from torch import Tensor, nn

from kdexp.configuration.arguments import Checked, Count, Depth, Width
from kdexp.errors import InvalidArguments, Problem
from kdexp.network.landmarks import Landmarks


class Block(nn.Module):
    """Two 3×3 convolutions, each after batch norm and ReLU, added to the input.

    If the shape changes, the input is replaced by a 1×1 convolution of the first activation.
    """

    def __init__(self, ins: int, outs: int, stride: int):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(ins)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(ins, outs, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outs)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(outs, outs, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(ins, outs, 1, stride, bias=False) if stride != 1 or ins != outs else None

    def forward(self, image: Tensor) -> Tensor:
        active = self.relu1(self.norm1(image))
        residual = self.conv2(self.relu2(self.norm2(self.conv1(active))))
        return residual + (image if self.shortcut is None else self.shortcut(active))


class WideResNet(nn.Module, Checked):
    """Three stages of n blocks, of `widen` times 16, 32, 64 channels; `image` [N, C, H, W] to logits [N, K].

    `depth` is 6n + 4. Outputs of stages are sums before activation; the last map is the activated one that is pooled.
    """

    landmarks = Landmarks(
        classifier="classifier",
        last_map="relu",
        stages=("stages.0", "stages.1", "stages.2"),
        preactivations=("stages.1.0.norm1", "stages.2.0.norm1", "norm"),  # the next stage normalises a stage's sums
    )

    def __init__(self, *, num_classes: Count, in_channels: Count, image_size: Count, depth: Depth, widen: Width):
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            below = max(depth - (depth - 4) % 6, 10)
            near = f"such as {below} or {below + 6}"
            raise InvalidArguments([Problem("depth", f"={depth}: must be 6n+4 for n blocks per stage, {near}")])
        blocks, widths = (depth - 4) // 6, [16, 16 * widen, 32 * widen, 64 * widen]
        self.stem = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.stages = nn.Sequential(
            *(
                nn.Sequential(Block(ins, outs, stride), *(Block(outs, outs, 1) for _ in range(blocks - 1)))
                for (ins, outs), stride in zip(pairwise(widths), (1, 2, 2), strict=True)
            )
        )
        self.norm = nn.BatchNorm2d(widths[-1])
        self.relu = nn.ReLU()
        self.classifier = nn.Linear(widths[-1], num_classes)
        nn.init.zeros_(self.classifier.bias)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> Tensor:
        return self.classifier(self.relu(self.norm(self.stages(self.stem(image)))).mean((2, 3)))
