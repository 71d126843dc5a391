"""A user's own networks, named by `_target_` in tests."""

from torch import Tensor, nn

from kdexp.network.landmarks import Landmarks


class NormNet(nn.Module):
    """A convolution with batch norm and an in-place ReLU, for 8×8 images."""

    landmarks = Landmarks(classifier="head", last_map="body")

    def __init__(self, *, num_classes: int, in_channels: int, image_size: int, width: int = 8):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(in_channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True))
        self.head = nn.Linear(width, num_classes)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.body(image).mean((2, 3)))


class AnswersWithDict(NormNet):
    """Returns its logits in a dictionary."""

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"logits": super().forward(image)}


class AnswersWithMap(NormNet):
    """Returns its last map instead of logits."""

    def forward(self, image: Tensor) -> Tensor:
        return self.body(image)


class HundredClasses(NormNet):
    """Ignores the number of classes of the data."""

    def __init__(self, *, num_classes: int, in_channels: int, image_size: int):
        super().__init__(num_classes=100, in_channels=in_channels, image_size=image_size)


class LooksAtValues(NormNet):
    """Reads values of the image, so that it can't run on the meta device."""

    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image / max(image.abs().max().item(), 1.0))


class NeedsTwelve(NormNet):
    """Fails on images smaller than twelve pixels."""

    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image.unfold(2, 12, 12).mean(-1))


class NeedsALicence(NormNet):
    """Fails in its constructor."""

    def __init__(self, *, num_classes: int, in_channels: int, image_size: int):
        raise OSError("no licence file")


class ColourOnly(NormNet):
    """Ignores the number of channels of the images."""

    def __init__(self, *, num_classes: int, in_channels: int, image_size: int):
        super().__init__(num_classes=num_classes, in_channels=3, image_size=image_size)


class DropNet(NormNet):
    """`NormNet` with dropout, which draws random numbers in training."""

    def forward(self, image: Tensor) -> Tensor:
        return self.head(nn.functional.dropout(self.body(image).mean((2, 3)), training=self.training))


class StagedNet(nn.Module):
    """Three stages, each with maps half as large as the one before, and dropout before the classifier."""

    landmarks = Landmarks(
        classifier="head",
        last_map="stages.2",
        stages=("stages.0", "stages.1", "stages.2"),
        preactivations=("stages.0.1", "stages.1.1", "stages.2.1"),
    )

    def __init__(self, *, num_classes: int, in_channels: int, image_size: int, width: int = 4):
        super().__init__()
        outs = [in_channels, width, width, 2 * width]
        self.stages = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(outs[n], outs[n + 1], 3, 2 if n else 1, padding=1), nn.BatchNorm2d(outs[n + 1]), nn.ReLU()
                )
                for n in range(3)
            )
        )
        self.dropout = nn.Dropout(0.3)
        self.head = nn.Linear(outs[-1], num_classes)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.dropout(self.stages(image).mean((2, 3))))


class Parts(nn.Module):
    """A network of the given modules, pooled in its own code."""

    def __init__(self, width=10, **parts):
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self.parts, self.fc = list(parts), nn.Linear(width, 10)

    def forward(self, image):
        for name in self.parts:
            image = self.get_submodule(name)(image)
        return self.fc(image.mean((2, 3)) if image.dim() == 4 else image)
