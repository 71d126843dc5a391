"""Multilayer perceptrons, for images as small as the embedded digits."""

from itertools import pairwise

from torch import Tensor, nn

from kdexp.configuration.arguments import Checked, Count, Width
from kdexp.network.landmarks import Landmarks


class MLP(nn.Module, Checked):
    """Linear layers with ReLU on the flattened image; `image` [N, C, H, W] to logits [N, K]."""

    landmarks = Landmarks(classifier="classifier", last_map="features")

    def __init__(self, *, num_classes: Count, in_channels: Count, image_size: Count, hidden: list[Width]):
        super().__init__()
        widths = [in_channels * image_size**2, *hidden]
        layers = [module for ins, outs in pairwise(widths) for module in (nn.Linear(ins, outs), nn.ReLU())]
        self.features = nn.Sequential(nn.Flatten(), *layers)
        self.classifier = nn.Linear(widths[-1], num_classes)

    def forward(self, image: Tensor) -> Tensor:
        return self.classifier(self.features(image))
