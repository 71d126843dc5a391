"""The strided network of the Keras example "Knowledge Distillation" (Borup 2020), for 28×28 images."""

import torch.nn.functional as F
from torch import Tensor, nn

from kdexp.configuration.arguments import Checked, Count, Width
from kdexp.errors import InvalidArguments, Problem
from kdexp.network.landmarks import Landmarks


def pad_same(image: Tensor, kernel: int, stride: int, value: float = 0.0) -> Tensor:
    """Applies TensorFlow's "same" padding to [N, C, H, W]: an odd pixel goes to the bottom and the right."""
    pads: list[int] = []
    for size in (image.shape[3], image.shape[2]):
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(image, pads, value=value)


class StridedNet(nn.Module, Checked):
    """Two 3×3 convolutions of stride 2 with LeakyReLU and max-pooling between; `image` [N, C, H, W] to logits [N, K].

    Initialised as in Keras: uniform weights (Glorot and Bengio 2010), biases 0.
    """

    landmarks = Landmarks(classifier="classifier", last_map="conv2")

    def __init__(self, *, num_classes: Count, in_channels: Count, image_size: Count, channels: list[Width]):
        super().__init__()
        if len(channels) != 2:
            raise InvalidArguments([Problem("channels", f"={channels!r}: must be two widths")])
        first, second = channels
        self.conv1 = nn.Conv2d(in_channels, first, 3, stride=2)
        self.conv2 = nn.Conv2d(first, second, 3, stride=2)
        self.classifier = nn.Linear(second * (-(-image_size // 4)) ** 2, num_classes)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.xavier_uniform_(parameter)

    def forward(self, image: Tensor) -> Tensor:
        hidden = F.leaky_relu(self.conv1(pad_same(image, 3, 2)), 0.2)
        hidden = F.max_pool2d(pad_same(hidden, 2, 1, value=float("-inf")), 2, stride=1)
        return self.classifier(self.conv2(pad_same(hidden, 3, 2)).flatten(1))
