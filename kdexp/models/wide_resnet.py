"""Wide residual nets for 32×32 images (Zagoruyko & Komodakis 2016, arXiv 1605.07146), activated before the convolutions."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

from torch import Tensor, nn

from kdexp.configuration.arguments import Checked, Count, Depth, Fraction, Range, Width
from kdexp.errors import InvalidArguments, Problem
from kdexp.network.landmarks import Landmarks


@dataclass(frozen=True)
class Style:
    """Batch norm and activation of all blocks: PyTorch's and a ReLU, unless given."""

    momentum: float = 0.1
    eps: float = 1e-5
    slope: float = 0.0

    def norm(self, channels: int) -> nn.BatchNorm2d:
        return nn.BatchNorm2d(channels, eps=self.eps, momentum=self.momentum)

    def activation(self) -> nn.Module:
        return nn.LeakyReLU(self.slope) if self.slope else nn.ReLU()


USUAL = Style()


class Block(nn.Module):
    """Two 3×3 convolutions, each after batch norm and activation, added to the input.

    If the shape changes, the input is replaced by a 1×1 convolution of the first activation, or of the input itself
    (`raw_shortcut`).
    """

    def __init__(self, ins: int, outs: int, stride: int, style: Style = USUAL, *, raw_shortcut: bool = False):
        super().__init__()
        self.raw_shortcut = raw_shortcut
        self.norm1 = style.norm(ins)
        self.relu1 = style.activation()
        self.conv1 = nn.Conv2d(ins, outs, 3, stride, padding=1, bias=False)
        self.norm2 = style.norm(outs)
        self.relu2 = style.activation()
        self.conv2 = nn.Conv2d(outs, outs, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(ins, outs, 1, stride, bias=False) if stride != 1 or ins != outs else None

    def forward(self, image: Tensor) -> Tensor:
        active = self.relu1(self.norm1(image))
        residual = self.conv2(self.relu2(self.norm2(self.conv1(active))))
        return residual + (image if self.shortcut is None else self.shortcut(image if self.raw_shortcut else active))


class WideResNet(nn.Module, Checked):
    """Three stages of n blocks, of `widen` times 16, 32, 64 channels; `image` [N, C, H, W] to logits [N, K].

    `depth` is 6n + 4. Outputs of stages are sums before activation; the last map is the activated one that is pooled.
    `norm_momentum` is the share of a batch in running statistics, `slope` the activation's below 0. With `raw_shortcuts`, the
    shortcuts into the second and the third stage convolve the sums before them, not their activation.
    """

    landmarks = Landmarks(
        classifier="classifier",
        last_map="relu",
        stages=("stages.0", "stages.1", "stages.2"),
        preactivations=("stages.1.0.norm1", "stages.2.0.norm1", "norm"),  # the next stage normalises a stage's sums
    )

    def __init__(
        self,
        *,
        num_classes: Count,
        in_channels: Count,
        image_size: Count,
        depth: Depth,
        widen: Width,
        stem_width: Width = 16,
        norm_momentum: Fraction = USUAL.momentum,
        norm_eps: Annotated[float, Range(above=0, within=(1e-12, 1e6))] = USUAL.eps,
        slope: Fraction = USUAL.slope,
        raw_shortcuts: bool = False,
    ):
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            below = max(depth - (depth - 4) % 6, 10)
            near = f"such as {below} or {below + 6}"
            raise InvalidArguments([Problem("depth", f"={depth}: must be 6n+4 for n blocks per stage, {near}")])
        blocks, widths = (depth - 4) // 6, [stem_width, 16 * widen, 32 * widen, 64 * widen]
        style = Style(norm_momentum, norm_eps, slope)
        self.stem = nn.Conv2d(in_channels, stem_width, 3, padding=1, bias=False)
        self.stages = nn.Sequential(
            *(
                nn.Sequential(
                    Block(ins, outs, stride, style, raw_shortcut=raw_shortcuts and stride == 2),
                    *(Block(outs, outs, 1, style) for _ in range(blocks - 1)),
                )
                for (ins, outs), stride in zip(pairwise(widths), (1, 2, 2), strict=True)
            )
        )
        self.norm = style.norm(widths[-1])
        self.relu = style.activation()
        self.classifier = nn.Linear(widths[-1], num_classes)
        nn.init.zeros_(self.classifier.bias)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> Tensor:
        return self.classifier(self.relu(self.norm(self.stages(self.stem(image)))).mean((2, 3)))
