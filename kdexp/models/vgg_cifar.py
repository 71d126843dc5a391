"""VGG nets for 32×32 images (Simonyan & Zisserman 2014, arXiv 1409.1556), with batch norm and one linear layer.

As in Tian et al. 2020 (CRD, arXiv 1910.10699), there is no pooling before the last stage; vgg8 has one convolution per stage.
"""

from torch import Tensor, nn

from kdexp.configuration.arguments import Blocks, Checked, Count, Width
from kdexp.errors import InvalidArguments, Problem
from kdexp.models.pooling import MaxPool2x2
from kdexp.network.landmarks import Landmarks

POOLED_FOUR_TIMES = 64
"""Smallest image size in pixels with a pooling before the last stage too."""


class VGG(nn.Module, Checked):
    """A stem and four stages of 3×3 convolutions with max-pooling between; `image` [N, C, H, W] to logits [N, K].

    `convolutions` and `widths` have five entries, the stem's first.
    """

    def __init__(
        self, *, num_classes: Count, in_channels: Count, image_size: Count, convolutions: list[Blocks], widths: list[Width]
    ):
        super().__init__()
        given = {"convolutions": convolutions, "widths": widths}
        if wrong := [
            Problem(name, f"={value}: must be five, the stem's first") for name, value in given.items() if len(value) != 5
        ]:
            raise InvalidArguments(wrong)
        pools = [False, True, True, True, image_size >= POOLED_FOUR_TIMES]
        parts = [
            _stage(ins, outs, count, pool)
            for ins, outs, count, pool in zip([in_channels, *widths], widths, convolutions, pools, strict=False)
        ]
        self.stem, self.stages = parts[0], nn.Sequential(*parts[1:])
        self.classifier = nn.Linear(widths[-1], num_classes)
        self.landmarks = Landmarks(
            classifier="classifier",
            last_map="stages.3",
            stages=("stages.0", "stages.1", "stages.2", "stages.3"),
            preactivations=tuple(f"stages.{number}.{len(stage) - 2}" for number, stage in enumerate(parts[1:])),
        )
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.classifier.weight, std=0.01)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, image: Tensor) -> Tensor:
        return self.classifier(self.stages(self.stem(image)).mean((2, 3)))


def _stage(ins: int, outs: int, convolutions: int, pool: bool) -> nn.Sequential:
    layers: list[nn.Module] = [MaxPool2x2()] if pool else []
    for _ in range(convolutions):
        layers += [nn.Conv2d(ins, outs, 3, padding=1), nn.BatchNorm2d(outs), nn.ReLU()]
        ins = outs
    return nn.Sequential(*layers)
