"""The small convolutional net for the digits."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kdexp.errors import InvalidArguments
from kdexp.models.convnet import ConvNet
from kdexp.network.capture import Capture
from kdexp.network.landmarks import classifier_of

DIGITS = {"num_classes": 10, "in_channels": 1, "image_size": 8}


def test_its_answer_by_hand():
    network, image = ConvNet(**DIGITS, widths=[4, 6]), torch.rand(5, 1, 8, 8)
    values = image
    for number, stage in enumerate(network.stages):
        convolution, norm = (next(layer for layer in stage if isinstance(layer, kind)) for kind in (nn.Conv2d, nn.BatchNorm2d))
        values = F.max_pool2d(values, 2) if number else values
        values = F.relu(F.batch_norm(F.conv2d(values, convolution.weight, padding=1), None, None, training=True, eps=norm.eps))
    expected = F.linear(values.mean((2, 3)), network.classifier.weight, network.classifier.bias)
    torch.testing.assert_close(network(image), expected)


def test_its_landmarks_are_its_stages():
    network = ConvNet(**DIGITS, widths=[4, 6, 8])
    marks = network.landmarks
    features = Capture(network, [*marks.stages, marks.pooled], torch.rand(2, 1, 8, 8)).probe.features
    assert [tuple(features[name].shape[1:]) for name in marks.stages] == [(4, 8, 8), (6, 4, 4), (8, 2, 2)]
    assert marks.last_map == marks.stages[-1] and features[marks.pooled].shape == (2, 8)
    assert classifier_of(network) is network.classifier


@pytest.mark.parametrize("widths", [[], [4] * 5])
def test_as_many_stages_as_the_images_can_be_halved(widths):
    with pytest.raises(InvalidArguments, match="of images of 8 pixels, at most 4 stages"):
        ConvNet(**DIGITS, widths=widths)
    assert ConvNet(**DIGITS, widths=[4] * 4)(torch.rand(2, 1, 8, 8)).shape == (2, 10)
