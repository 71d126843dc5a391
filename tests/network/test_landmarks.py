import pytest
import torch
import torch.nn.functional as F
from own_networks import NormNet, Parts
from torch import nn

from kdexp.data.shape import Shape
from kdexp.errors import UnknownLayer
from kdexp.network.build import build_network, device_of, sketch_network
from kdexp.network.capture import Capture
from kdexp.network.landmarks import Landmarks, find_landmarks, landmarks_of
from kdexp.network.layers import channels_first

IMAGE = torch.zeros(2, 3, 32, 32)

FAMILIES = {
    "resnet18": ("fc", "relu layer1 layer2 layer3 layer4"),
    "mobilenet_v3_small": ("classifier.3", "features.0 features.1 features.3 features.8 features"),
    "efficientnet_b0": ("classifier.1", "features.1 features.2 features.3 features.5 features"),
    "vgg11_bn": ("classifier.6", "features.2 features.6 features.13 features.20 features.27 features"),
    "densenet121": ("classifier", "features.relu0 features.denseblock1 features.denseblock2 features.denseblock3 features"),
    "shufflenet_v2_x0_5": ("fc", "conv1 maxpool stage2 stage3 conv5"),
    "squeezenet1_1": ("classifier.1", "features.1 features.4 features.7 features"),
    "convnext_tiny": ("classifier.2", "features.1 features.3 features.5 features"),
    "swin_t": ("head", "features.1 features.3 features.5 permute"),
    "swin_v2_t": ("head", "features.1 features.3 features.5 permute"),
    "googlenet": ("fc", "conv1 conv3 inception3b inception4e inception5b"),
    "regnet_y_400mf": ("fc", "stem trunk_output.block1 trunk_output.block2 trunk_output.block3 trunk_output"),
}
HEADS = {
    "mobilenet_v3_small": "classifier.0 classifier.1",
    "vgg11_bn": "classifier.0 classifier.1 classifier.3 classifier.4",
    "convnext_tiny": "classifier.0",
}
"""Modules of each family between its last map and its classifier, without poolings, dropout and the like."""


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_the_landmarks_of_a_torchvision_family(name):
    target = "kdexp.models.torchvision_nets.torchvision_net"
    network = sketch_network({"_target_": target, "name": name, "weights": None, "stem": "default"}, Shape(10, 3, 32))
    classifier, stages = FAMILIES[name][0], FAMILIES[name][1].split()
    head = tuple(HEADS.get(name, "").split())
    assert network.landmarks == Landmarks(classifier, stages[-1], tuple(stages), head=head)
    device = device_of(network)
    outputs = Capture(network, [*stages, network.landmarks.pooled], IMAGE.to(device)).probe
    sizes = [outputs.features[stage].shape[2:] for stage in stages]
    assert all(height == width for height, width in sizes) and sizes == sorted(set(sizes), reverse=True)
    pooled = outputs.features[network.landmarks.pooled].shape
    assert pooled[1] == network.get_submodule(classifier).weight.shape[1] and len(pooled) == (4 if "squeeze" in name else 2)


@pytest.mark.slow
def test_a_transformers_last_map_is_its_tokens():
    target = "kdexp.models.torchvision_nets.torchvision_net"
    network = sketch_network({"_target_": target, "name": "vit_b_32", "weights": None, "stem": "default"}, Shape(10, 3, 64))
    assert network.landmarks == Landmarks("heads.head", "encoder", ())
    assert Capture(network, ["encoder"], torch.zeros(2, 3, 64, 64, device="meta")).probe.features["encoder"].shape == (
        2,
        5,
        768,
    )


class Excited(nn.Module):
    """A convolution whose channels are weighted by a pooling branch."""

    def __init__(self, width):
        super().__init__()
        self.conv, self.pool, self.gate = nn.Conv2d(3, width, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, width, 1)

    def forward(self, image):
        hidden = self.conv(image)
        return hidden * self.gate(self.pool(hidden)).sigmoid()


def test_a_branch_that_pools_inside_a_block_is_not_a_stage():
    assert find_landmarks(Parts(block=Excited(10)), IMAGE) == Landmarks("fc", "block", ("block",))


def test_outputs_after_the_global_pooling_are_not_maps():
    net = Parts(conv=nn.Conv2d(3, 10, 3), pool=nn.AdaptiveAvgPool2d(1), norm=nn.BatchNorm2d(10), act=nn.ReLU())
    assert find_landmarks(net, IMAGE) == Landmarks("fc", "conv", ("conv",), head=("norm", "act"))


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.linear, self.act = nn.Linear(width, width), nn.ReLU()

    def forward(self, vector):
        return vector + self.act(self.linear(vector))


def test_a_head_lists_outermost_modules_and_members_of_a_sequence_that_do_not_pool():
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    neck = nn.Sequential(nn.Linear(10, 10), nn.Hardswish(), nn.Dropout(), nn.Identity(), Residual(10))
    net = Parts(conv=nn.Conv2d(3, 10, 3), pool=pool, neck=neck, last=Residual(10))
    assert find_landmarks(net, IMAGE).head == ("neck.0", "neck.1", "neck.4", "last")


def test_a_module_after_the_last_map_may_share_its_parent():
    body = nn.Sequential(nn.Conv2d(3, 10, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Tanh())
    assert find_landmarks(Parts(body=body), IMAGE) == Landmarks("fc", "body.0", ("body.0",), head=("body.3",))


def test_a_module_that_runs_twice_is_named_once():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.act, self.fc = nn.Conv2d(3, 10, 3), nn.ReLU(), nn.Linear(10, 10)

        def forward(self, image):
            return self.fc(self.act(self.act(self.conv(image).mean((2, 3)))))

    assert find_landmarks(Twice(), IMAGE).head == ("act",)


def test_a_parallel_stem_does_not_hide_the_first_stage():
    shrinking = [nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.Conv2d(8, 10, 3, stride=2, padding=1)]
    body = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), *shrinking)
    assert find_landmarks(Parts(stem=nn.Conv2d(3, 8, 3, padding=1), body=body), IMAGE).stages == ("body.0", "body.1", "body")


def test_dropout_and_flattening_are_passed_over():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(3600, 10))
    assert find_landmarks(net, IMAGE) == Landmarks("4", "1", ("1",))


def test_without_maps_the_last_vector_is_the_last_map():
    net = nn.Sequential(nn.Flatten(), nn.Linear(3072, 20), nn.ReLU(), nn.Linear(20, 10))
    assert find_landmarks(net, IMAGE) == Landmarks("3", "2", ())


def test_channels_last_maps_count_too():
    class Last(nn.Module):
        def forward(self, image):
            return image.permute(0, 2, 3, 1)

    net = nn.Sequential(nn.Conv2d(3, 6, 3), Last(), nn.LayerNorm(6), nn.Flatten(), nn.Linear(5400, 10))
    assert find_landmarks(net, IMAGE) == Landmarks("4", "2", ("2",))
    assert Capture(net, ["2"], IMAGE).probe.features["2"].shape == (2, 6, 30, 30)


def test_only_square_channels_last_maps_are_permuted():
    value = torch.randn(2, 5, 5, 3)
    assert torch.equal(channels_first(value), value.permute(0, 3, 1, 2))
    for other in (torch.randn(2, 3, 5, 5), torch.randn(2, 5, 5, 5), torch.randn(2, 5, 3), torch.randn(2, 4, 5, 3)):
        assert channels_first(other) is other


class Functional(nn.Module):
    def __init__(self, **shape):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(10, 3072))

    def forward(self, image):
        return F.linear(image.flatten(1), self.weight)


def test_without_a_module_that_gives_the_logits_layers_must_be_named():
    assert find_landmarks(Functional(), IMAGE) is None
    network = build_network({"_target_": "test_landmarks.Functional"}, Shape(10, 3, 32))
    with pytest.raises(UnknownLayer, match="^Functional declares no landmarks, so its layers must be named$"):
        landmarks_of(network)


def test_declared_landmarks_take_precedence():
    network = build_network({"_target_": "own_networks.NormNet"}, Shape(10, 1, 8))
    assert landmarks_of(network) is NormNet.landmarks
    assert "landmarks" not in vars(network)


def test_the_probe_changes_nothing():
    net = Parts(conv=nn.Conv2d(3, 10, 3), norm=nn.BatchNorm2d(10), drop=nn.Dropout()).train()
    before, state = {name: value.clone() for name, value in net.state_dict().items()}, torch.random.get_rng_state()
    find_landmarks(net, IMAGE + 1)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(module.training and not module._forward_hooks for module in net.modules())


def test_a_layer_that_gives_no_tensor_is_refused():
    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.head = nn.MultiheadAttention(4, 1, batch_first=True), nn.Linear(4, 2)

        def forward(self, tokens):
            return self.head(self.attention(tokens, tokens, tokens)[0].mean(1))

    with pytest.raises(UnknownLayer, match="^Attends's layer 'attention' gives a tuple, not one tensor$"):
        Capture(Attends(), ["attention"], torch.randn(2, 3, 4))
