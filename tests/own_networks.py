"""Networks of a user's own, named by `_target_` in tests."""

from torch import Tensor, nn

from kdexp.features import Roles


class NormNet(nn.Module):
    """A convolution with batch norm and an in-place ReLU, for 8×8 images."""

    roles = Roles(classifier="head", last_map="body")

    def __init__(self, *, num_classes: int, in_channels: int, image_size: int, width: int = 8):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(in_channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True))
        self.head = nn.Linear(width, num_classes)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.body(image).mean((2, 3)))


class DropNet(NormNet):
    """The same with dropout, which draws random numbers in training."""

    def forward(self, image: Tensor) -> Tensor:
        return self.head(nn.functional.dropout(self.body(image).mean((2, 3)), training=self.training))
