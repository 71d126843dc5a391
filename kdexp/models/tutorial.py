"""The two networks of the PyTorch tutorial "Knowledge Distillation" (Chariton 2023), for 32×32 images.

Here pooling comes before the ReLU, with the same values and gradients on a quarter of the elements.
"""

from torch import Tensor, nn

from kdexp.configuration.arguments import Checked, Count, Fraction
from kdexp.models.pooling import MaxPool2x2
from kdexp.network.landmarks import Landmarks


def _convolutions(in_channels: int, widths: list[int], pool_after: set[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for position, width in enumerate(widths):
        layers.append(nn.Conv2d(in_channels, width, 3, padding=1))
        layers += [MaxPool2x2()] if position in pool_after else []
        layers.append(nn.ReLU())
        in_channels = width
    return nn.Sequential(*layers)


class TutorialNet(nn.Module, Checked):
    """Convolutions with two poolings, then one hidden linear layer with dropout; `image` [N, C, H, W] to logits [N, K]."""

    widths: list[int]
    pool_after: set[int]
    hidden: int
    landmarks = Landmarks(classifier="classifier.3", last_map="features", head=("classifier.0", "classifier.1"))

    def __init__(self, *, num_classes: Count, in_channels: Count, image_size: Count, dropout: Fraction):
        super().__init__()
        self.features = _convolutions(in_channels, self.widths, self.pool_after)
        flat = self.widths[-1] * (image_size // 4) ** 2
        self.classifier = nn.Sequential(
            nn.Linear(flat, self.hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(self.hidden, num_classes)
        )

    def forward(self, image: Tensor) -> Tensor:
        return self.classifier(self.features(image).flatten(1))


class DeepNN(TutorialNet):
    """The teacher: 1,186,986 parameters at 10 classes and 32×32×3."""

    widths = [128, 64, 64, 32]
    pool_after = {1, 3}
    hidden = 512


class LightNN(TutorialNet):
    """The student: 267,738 parameters at 10 classes and 32×32×3."""

    widths = [16, 16]
    pool_after = {0, 1}
    hidden = 256
