from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kdexp.errors import UnknownLayer
from kdexp.models.keras_mnist import StridedNet, pad_same
from kdexp.models.mlp import MLP
from kdexp.models.tutorial import DeepNN, LightNN
from kdexp.network.capture import Capture, Outputs
from kdexp.network.landmarks import Landmarks, landmarks_of
from kdexp.network.layers import find_layers

COLOUR = {"num_classes": 10, "in_channels": 3, "image_size": 32, "dropout": 0.1}
GREY = {"num_classes": 10, "in_channels": 1, "image_size": 28}


def deepnn():
    return DeepNN(**COLOUR), torch.zeros(2, 3, 32, 32)


def lightnn():
    return LightNN(**COLOUR), torch.zeros(2, 3, 32, 32)


def strided():
    return StridedNet(**GREY, channels=[4, 6]), torch.zeros(2, 1, 28, 28)


def mlp():
    return MLP(num_classes=10, in_channels=1, image_size=8, hidden=[12, 5]), torch.zeros(2, 1, 8, 8)


SHIPPED = [deepnn, lightnn, strided, mlp]


def two_layers():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))


def with_batch_norm():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Dropout(0.5), nn.Linear(16, 2))


class Fragile(nn.Module):
    """Runs `first` and, unless it is set to fail, `last`; never `idle`."""

    def __init__(self):
        super().__init__()
        self.first, self.last, self.idle = nn.Linear(4, 4), nn.Linear(4, 2), nn.Linear(4, 4)
        self.fails = False

    def forward(self, image):
        hidden = self.first(image)
        if self.fails:
            raise ArithmeticError("out of order")
        return self.last(hidden)


def hooks_on(model):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def test_a_capture_returns_the_logits_and_the_named_outputs():
    net, image = two_layers(), torch.randn(5, 4)
    outputs = Capture(net, ["0", "1"], image)(image)
    assert torch.equal(outputs.logits, net(image))
    assert list(outputs.features) == ["0", "1"]
    assert torch.equal(outputs.features["0"], net[0](image))
    assert torch.equal(outputs.features["1"], net[0](image).relu())


def test_a_capture_without_layers_returns_only_logits():
    net, image = two_layers(), torch.randn(5, 4)
    assert Capture(net, [], image)(image).features == {}


def test_a_layer_named_twice_is_captured_once():
    net, image = two_layers(), torch.randn(5, 4)
    assert list(Capture(net, ["1", "1"], image)(image).features) == ["1"]


def test_captured_outputs_carry_gradients_to_the_layers_below():
    net, image = two_layers(), torch.randn(5, 4)
    Capture(net, ["0"], image)(image).features["0"].sum().backward()
    assert net[0].weight.grad is not None
    assert net[2].weight.grad is None


def test_the_probe_holds_the_outputs_on_the_probe_image_without_gradients():
    net, image = two_layers(), torch.randn(5, 4)
    probe = Capture(net, ["0"], image).probe
    assert torch.equal(probe.features["0"], net[0](image))
    assert torch.equal(probe.logits, net(image))
    assert not probe.logits.requires_grad


def test_an_unknown_layer_is_refused_with_the_known_names_and_the_closest():
    net, image = lightnn()
    with pytest.raises(UnknownLayer) as refusal:
        Capture(net, ["feature"], image)
    assert str(refusal.value) == (
        "LightNN has no layer 'feature'; did you mean features? known: features, features.0, features.1, features.2, "
        "features.3, features.4, features.5, classifier, classifier.0, classifier.1, classifier.2, classifier.3"
    )


def test_only_the_outer_layers_of_a_deep_network_are_listed():
    blocks = [nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(20)]
    net = nn.Sequential(OrderedDict(body=nn.Sequential(*blocks), head=nn.Linear(4, 2)))
    with pytest.raises(UnknownLayer) as refusal:
        find_layers(net, ["bod"])
    outer = ", ".join(f"body.{position}" for position in range(20))
    assert (
        str(refusal.value)
        == f"Sequential has no layer 'bod'; did you mean body? known: body, {outer}, head and 40 inside these"
    )


def test_a_name_like_no_layer_gets_no_suggestion():
    with pytest.raises(UnknownLayer, match=r"^Sequential has no layer 'stem'; known: 0, 1, 2$"):
        find_layers(two_layers(), ["stem"])


def test_a_model_without_layers_says_so():
    with pytest.raises(UnknownLayer, match=r"^Identity has no layer 'stem'; known: none$"):
        find_layers(nn.Identity(), ["stem"])


def test_the_model_itself_is_not_a_layer():
    with pytest.raises(UnknownLayer, match="no layer ''"):
        find_layers(two_layers(), [""])


def test_a_layer_that_does_not_run_is_refused_and_leaves_no_hook():
    net = Fragile().train()
    with pytest.raises(UnknownLayer, match=r"^Fragile does not run its layer 'idle' in a forward pass$"):
        Capture(net, ["first", "idle"], torch.randn(2, 4))
    assert hooks_on(net) == 0
    assert net.training


def test_an_in_place_relu_leaves_the_captured_pre_activation_alone():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(inplace=True), nn.Flatten())
    image = torch.randn(2, 1, 5, 5)
    capture = Capture(net, ["0", "1"], image)
    for outputs in (capture(image), capture.probe):
        assert torch.equal(outputs.features["0"], net[0](image))
        assert (outputs.features["0"] < 0).any()
        assert torch.equal(outputs.features["1"], net[0](image).relu())


def test_the_input_of_a_module_is_a_layer_too():
    net, image = two_layers(), torch.randn(5, 4)
    features = Capture(net, ["0.input", "2", "2.input"], image)(image).features
    assert set(features) == {"0.input", "2", "2.input"}
    assert torch.equal(features["0.input"], image)
    assert torch.equal(features["2.input"], net[1](net[0](image)))
    assert torch.equal(features["2"], net(image))


def test_an_in_place_relu_leaves_its_captured_input_alone():
    torch.manual_seed(0)
    net, image = nn.Sequential(nn.Linear(4, 3), nn.ReLU(inplace=True), nn.Linear(3, 2)), torch.randn(5, 4)
    outputs = Capture(net, ["1.input", "1"], image)(image)
    assert torch.equal(outputs.features["1.input"], net[0](image))
    assert torch.equal(outputs.features["1"], net[0](image).relu())
    outputs.features["1.input"].sum().backward()
    assert net[0].weight.grad is not None and net[2].weight.grad is None


def test_a_module_that_is_called_input_comes_before_the_input_of_its_parent():
    inner = nn.Sequential(OrderedDict(first=nn.Linear(4, 3), input=nn.Linear(3, 2)))
    net, image = nn.Sequential(inner), torch.randn(5, 4)
    features = Capture(net, ["0.input", "0.input.input"], image).probe.features
    assert torch.equal(features["0.input"], net(image))
    assert torch.equal(features["0.input.input"], inner.first(image))


@pytest.mark.parametrize("name", ["input", ".input", "3.input", "0.inputs"])
def test_the_input_of_an_unknown_module_is_refused(name):
    with pytest.raises(UnknownLayer, match=rf"^Sequential has no layer '{name}'; known: 0, 1, 2$"):
        find_layers(two_layers(), [name])


def test_an_input_that_is_given_by_keyword_is_refused():
    class ByKeyword(Fragile):
        def forward(self, image):
            return self.last(input=self.first(image))

    with pytest.raises(UnknownLayer, match=r"^ByKeyword's layer 'last.input' gives a NoneType, not one tensor$"):
        Capture(ByKeyword(), ["last.input"], torch.randn(2, 4))


def test_gradients_reach_the_layers_through_a_copied_pre_activation():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(inplace=True), nn.Linear(3, 2))
    image = torch.randn(5, 4)
    outputs = Capture(net, ["0"], image)(image)
    (outputs.features["0"].square().sum() + outputs.logits.sum()).backward()
    got = net[0].weight.grad.clone()
    net.zero_grad()
    hidden = net[0](image)
    (hidden.square().sum() + net[2](hidden.relu()).sum()).backward()
    torch.testing.assert_close(got, net[0].weight.grad)


def test_an_in_place_dropout_leaves_the_captured_output_alone_in_training():
    # Evaluation mode, in which the probe runs, does not show this overwriting.
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 50), nn.Dropout(0.5, inplace=True), nn.Linear(50, 2)).train()
    image = torch.randn(2, 4)
    assert torch.equal(Capture(net, ["0"], image)(image).features["0"], net[0](image))


def test_hooks_exist_only_during_a_call():
    net, image = two_layers(), torch.randn(5, 4)
    capture = Capture(net, ["0", "2", "2.input"], image)
    assert hooks_on(net) == 0
    capture(image)
    assert hooks_on(net) == 0


def test_hooks_are_removed_when_the_model_fails():
    net = Fragile()
    capture = Capture(net, ["first"], torch.randn(2, 4))
    net.fails = True
    with pytest.raises(ArithmeticError):
        capture(torch.randn(2, 4))
    assert hooks_on(net) == 0


def test_a_model_that_fails_on_the_probe_keeps_its_mode_and_no_hook():
    net = Fragile().train()
    net.fails = True
    with pytest.raises(ArithmeticError):
        Capture(net, ["first"], torch.randn(2, 4))
    assert net.training
    assert hooks_on(net) == 0


@pytest.mark.parametrize("training", [True, False])
def test_the_probe_changes_neither_batch_statistics_nor_the_mode(training):
    net = with_batch_norm().train(training)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    Capture(net, ["1"], torch.randn(8, 1, 4, 4))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert {module.training for module in net.modules()} == {training}


def test_the_probe_sees_evaluation_mode():
    net, image = with_batch_norm().train(), torch.randn(8, 1, 4, 4)
    probe = Capture(net, ["1"], image).probe
    net.eval()
    assert torch.equal(probe.logits, net(image))
    assert torch.equal(probe.features["1"], net[1](net[0](image)))


def test_outputs_are_fp32_under_bf16_autocast():
    net, image = two_layers(), torch.randn(5, 4)
    capture = Capture(net, ["0"], image)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = capture(image)
        assert net(image).dtype == torch.bfloat16
    assert outputs.logits.dtype == outputs.features["0"].dtype == torch.float32
    assert torch.equal(outputs.logits, outputs.logits.bfloat16().float())


def test_a_change_is_mapped_over_logits_and_features():
    doubled = Outputs(torch.ones(2, 3), {"a": torch.ones(4)}).map(lambda value: 2 * value)
    assert torch.equal(doubled.logits, torch.full((2, 3), 2.0))
    assert torch.equal(doubled.features["a"], torch.full((4,), 2.0))


@pytest.mark.parametrize("made", SHIPPED)
def test_the_landmarks_of_a_shipped_model_are_layers_that_run(made):
    net, image = made()
    landmarks = landmarks_of(net)
    outputs = Capture(net, [landmarks.classifier, landmarks.last_map, *landmarks.stages, landmarks.pooled], image).probe
    assert isinstance(net.get_submodule(landmarks.classifier), nn.Linear)
    assert torch.equal(net.get_submodule(landmarks.classifier)(outputs.features[landmarks.pooled]), outputs.logits)
    assert torch.equal(outputs.features[landmarks.classifier], outputs.logits)
    assert outputs.logits.shape == (2, 10)


@pytest.mark.parametrize(("made", "shape"), [(deepnn, (32, 8, 8)), (lightnn, (16, 8, 8)), (strided, (6, 7, 7)), (mlp, (5,))])
def test_the_last_map_of_a_shipped_model_has_its_shape(made, shape):
    net, image = made()
    name = landmarks_of(net).last_map
    assert Capture(net, [name], image).probe.features[name].shape[1:] == shape


def test_a_model_without_landmarks_is_refused():
    with pytest.raises(UnknownLayer, match=r"^Identity declares no landmarks, so its layers must be named$"):
        landmarks_of(nn.Identity())


def test_landmarks_must_be_declared_as_landmarks():
    net = two_layers()
    net.landmarks = {"classifier": "2", "last_map": "0"}
    with pytest.raises(UnknownLayer):
        landmarks_of(net)
    net.landmarks = Landmarks(classifier="2", last_map="0")
    assert landmarks_of(net).stages == ()


@pytest.mark.parametrize(
    ("net", "parameters"),
    [
        (DeepNN(**COLOUR), 1_186_986),
        (LightNN(**COLOUR), 267_738),
        (StridedNet(**GREY, channels=[256, 512]), 1_433_610),
        (StridedNet(**GREY, channels=[16, 32]), 20_490),
    ],
)
def test_published_nets_have_exactly_their_parameters(net, parameters):
    assert sum(parameter.numel() for parameter in net.parameters()) == parameters


def relu_before_pool(features):
    """Returns the same convolutions with every pooling after its ReLU, as the tutorial writes them."""
    layers = list(features)
    for pool in [position for position, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]:
        assert isinstance(layers[pool + 1], nn.ReLU)
        layers[pool], layers[pool + 1] = layers[pool + 1], layers[pool]
    return nn.Sequential(*layers)


@pytest.mark.parametrize("family", [DeepNN, LightNN])
def test_pooling_before_the_relu_gives_the_same_bits_as_after_it(family):
    torch.manual_seed(0)
    net, image, target = family(**COLOUR), torch.randn(2, 3, 32, 32), torch.tensor([3, 7])
    net.classifier[2].p = 0.0
    results = []
    for features in (net.features, relu_before_pool(net.features)):
        net.zero_grad()
        logits = net.classifier(features(image).flatten(1))
        F.cross_entropy(logits, target).backward()
        results.append([logits.detach(), *(parameter.grad.clone() for parameter in net.parameters())])
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*results, strict=True))
    assert all(tensor.abs().sum() > 0 for tensor in results[0])


@pytest.mark.parametrize("size", [2, 8, 14, 28])
def test_same_padding_of_even_sizes_at_stride_two_is_at_the_bottom_and_the_right(size):
    image = torch.randn(1, 2, size, size)
    padded = pad_same(image, kernel=3, stride=2)
    assert padded.shape == (1, 2, size + 1, size + 1)
    assert torch.equal(padded[..., :size, :size], image)
    assert not padded[..., size, :].any()
    assert not padded[..., :, size].any()


@pytest.mark.parametrize("size", [7, 15])
def test_same_padding_of_odd_sizes_at_stride_two_is_on_all_sides(size):
    image = torch.ones(1, 1, size, size)
    assert torch.equal(pad_same(image, kernel=3, stride=2), F.pad(image, (1, 1, 1, 1)))


def test_same_padding_treats_height_and_width_apart():
    image = torch.ones(1, 1, 4, 5)
    assert torch.equal(pad_same(image, kernel=3, stride=2), F.pad(image, (1, 1, 0, 1)))


def test_the_strided_net_convolves_from_the_top_left_corner():
    net, _ = strided()
    image = torch.randn(2, 1, 28, 28)
    expected = F.conv2d(F.pad(image, (0, 1, 0, 1)), net.conv1.weight, net.conv1.bias, stride=2)
    torch.testing.assert_close(Capture(net, ["conv1"], image).probe.features["conv1"], expected)


@torch.no_grad()
def test_the_padding_of_the_strided_net_does_not_raise_the_pooled_maxima():
    net, image = strided()
    net.conv1.weight.zero_()
    net.conv1.bias.fill_(-1.0)
    net.conv2.weight.fill_(1.0)
    net.conv2.bias.zero_()
    last = Capture(net, ["conv2"], image).probe.features["conv2"]
    # Each of the 4 channels is leaky_relu(-1) = -0.2 everywhere; the corner window has 2·2 of its 3·3 positions inside.
    assert last[0, 0, 0, 0].item() == pytest.approx(-0.2 * 4 * 9)
    assert last[0, 0, 6, 6].item() == pytest.approx(-0.2 * 4 * 4)


def test_the_strided_net_refuses_other_than_two_widths():
    with pytest.raises(ValueError, match=r"channels=\[4\]: must be two widths"):
        StridedNet(**GREY, channels=[4])


def test_the_perceptron_has_a_relu_after_every_hidden_layer():
    net, _ = mlp()
    kinds = [type(layer) for layer in net.features]
    assert kinds == [nn.Flatten, nn.Linear, nn.ReLU, nn.Linear, nn.ReLU]
    assert [tuple(parameter.shape) for parameter in net.parameters() if parameter.ndim == 2] == [(12, 64), (5, 12), (10, 5)]
