"""Quick passes without values: the shapes of passes with values, the counts of PyTorch's counter, refusals as always."""

import warnings

import pytest
import torch
from experiments import COMPOSER
from hypothesis import given, settings
from hypothesis import strategies as st
from own_networks import NormNet
from shipped import options
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from kdexp.data.shape import Shape
from kdexp.network import cost
from kdexp.network.build import sketch_network, with_values
from kdexp.network.capture import Capture
from kdexp.network.quick_pass import QuickPass
from kdexp.network.quick_rules import OTHERS, PRODUCTS

few = settings(max_examples=60)


def outcome(function, tensors, named):
    """The shape, strides and type of what a function returns; or that it refuses."""
    try:
        result = function(*tensors, **named)
    except (RuntimeError, ValueError, TypeError, IndexError):
        return "refused"
    return result.shape, result.stride(), result.dtype


def agrees(function, *tensors, **named):
    """A quick pass returns the shape that there is with values; where these are refused, it does what PyTorch does without."""

    def without_values(value):
        if isinstance(value, list):
            return [without_values(one) for one in value]
        return (
            torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
            if isinstance(value, Tensor)
            else value
        )

    sketched = [without_values(value) for value in tensors]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # those of padding="same" with even kernels
        real = outcome(function, tensors, named)
        with QuickPass():
            quick = outcome(function, sketched, named)
        assert quick == real or quick == outcome(function, sketched, named), "as with values, or as PyTorch has it without them"


sides = st.integers(1, 9)
layouts = st.sampled_from(["whole", "chunk", "rows", "columns", "turned", "last"])


def images(layout, *size):
    """Zeros of that size: contiguous, a part of something larger, or in another order."""
    number, channels, height, width = size
    if layout == "chunk":
        return torch.zeros(number, 2 * channels, height, width).chunk(2, 1)[1]
    if layout == "rows":
        return torch.zeros(number, channels, 2 * height, width)[:, :, ::2]
    if layout == "columns":
        return torch.zeros(number, channels, height, width + 1)[..., 1:]
    if layout == "turned":
        return torch.zeros(number, channels, width, height).mT
    return torch.zeros(size).contiguous(memory_format=torch.channels_last if layout == "last" else torch.contiguous_format)


steps = st.integers(1, 3) | st.tuples(st.integers(1, 3), st.integers(1, 3))


@few
@given(
    channels=st.sampled_from([2, 3, 4]),
    weights=st.tuples(st.sampled_from([3, 4, 6]), st.sampled_from([1, 2, 4]), sides, sides),
    height=sides,
    width=sides,
    bias=st.sampled_from([None, 4, 6]),
    stride=steps,
    padding=st.integers(0, 3) | st.sampled_from(["same", "valid"]),
    dilation=steps,
    groups=st.sampled_from([1, 1, 2]),
    layout=layouts,
)
def test_convolutions(channels, weights, height, width, bias, layout, **named):
    bias = bias if bias is None else torch.zeros(bias)
    agrees(F.conv2d, images(layout, 2, channels, height, width), torch.zeros(weights), bias, **named)


@few
@given(st.lists(st.integers(1, 3), max_size=3), st.integers(1, 3), st.integers(1, 3), st.sampled_from([None, 2, 3]))
def test_linear_layers(sizes, ins, outs, bias):
    agrees(F.linear, torch.zeros([*sizes, 2]), torch.zeros(outs, ins), bias if bias is None else torch.zeros(bias))


@few
@given(
    pool=st.sampled_from([F.max_pool2d, F.avg_pool2d]),
    size=st.tuples(sides, sides),
    kernel_size=steps,
    stride=st.none() | steps,
    padding=st.integers(0, 2),
    ceil_mode=st.booleans(),
    layout=layouts,
)
def test_pools(pool, size, layout, **named):
    agrees(pool, images(layout, 2, 3, *size), **named)


@few
@given(st.tuples(st.integers(1, 2), st.integers(1, 3), sides, sides), layouts, layouts, st.booleans())
def test_functions_of_single_values(size, layout, other, inplace):
    agrees(F.relu, images(layout, *size), inplace=inplace)
    agrees(F.leaky_relu, images(layout, *size), inplace=inplace)
    agrees(Tensor.add, images(layout, *size), images(other, *size))
    agrees(torch.cat, [images(layout, *size), images(other, *size)], dim=1)
    agrees(Tensor.mean, images(layout, *size), dim=(2, 3))


@few
@given(st.tuples(sides, sides), st.sampled_from([1, 2, (1, 3), (2, None), 0]))
def test_adaptive_pools(size, output_size):
    agrees(F.adaptive_avg_pool2d, torch.zeros(2, 3, *size), output_size)


@few
@given(st.none() | st.integers(-4, 4) | st.lists(st.integers(-3, 3), max_size=3), st.booleans())
def test_means(dim, keepdim):
    agrees(Tensor.mean, torch.zeros(2, 3, 4), dim=dim, keepdim=keepdim)


@few
@given(st.integers(-4, 4), st.lists(st.tuples(*[st.integers(1, 2)] * 3), min_size=1, max_size=3))
def test_concatenations(dim, sizes):
    agrees(torch.cat, [torch.zeros(size) for size in sizes], dim=dim)


@few
@given(st.sampled_from([(2, 3), (1, 3), (4,), ()]), st.sampled_from([torch.float32, torch.float64, torch.int64]))
def test_sums(size, dtype):
    for function in (Tensor.add, Tensor.add_):
        agrees(function, torch.zeros(2, 3), torch.zeros(size, dtype=dtype))


NORMS = [(nn.BatchNorm1d(6), (4, 6)), (nn.BatchNorm2d(6, affine=False), (4, 6, 5, 5)), (nn.BatchNorm3d(6), (4, 6, 2, 2, 2))]


@pytest.mark.parametrize(("norm", "size"), NORMS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_batch_norm_gives_the_shape_and_layout_that_it_has_with_values(norm, size, layout):
    image = torch.rand(size).contiguous(memory_format=layout) if len(size) == 4 else torch.rand(size)
    real = norm.eval()(image)
    with torch.no_grad(), QuickPass():
        sketch = norm.to("meta")(image.to("meta"))
    norm.to_empty(device="cpu")
    assert (sketch.shape, sketch.stride(), sketch.dtype, sketch.device.type) == (real.shape, real.stride(), real.dtype, "meta")


@pytest.mark.parametrize("size", [(4, 5, 3, 3), (4, 6, 3)])
def test_a_wrong_input_is_refused_as_always(size):
    with torch.no_grad(), QuickPass(), pytest.raises((RuntimeError, ValueError)):
        nn.BatchNorm2d(6).eval().to("meta")(torch.empty(size, device="meta"))


def test_values_and_gradients_are_left_to_torch():
    layers = (nn.BatchNorm2d(6), nn.Conv2d(6, 2, 1), nn.ReLU(), nn.AvgPool2d(2))
    image = torch.rand(3, 6, 4, 4)
    for layer in layers:
        expected = layer.eval()(image)
        with QuickPass():
            assert torch.equal(layer(image), expected)
            assert layer.to("meta")(image.to("meta").requires_grad_()).requires_grad


@pytest.mark.parametrize("layer", [nn.ReLU(inplace=True), nn.LeakyReLU(inplace=True)])
def test_what_is_overwritten_is_seen_to_be_overwritten(layer):
    network = nn.Sequential(nn.Conv2d(3, 4, 1), layer, nn.Flatten(), nn.Linear(16, 2)).to("meta")
    with QuickPass():
        assert Capture(network, ["0", "1"], torch.zeros(2, 3, 2, 2, device="meta"))._overwritten == {"0"}


def counted(network, image):
    """What PyTorch counts, with batch norms alone made quick."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter, QuickPass(products=False):
        network(image)
    return counter.get_total_flops() // 2


def shapes(network, image):
    """The shape of what every module returns."""
    found = {}
    for name, module in network.named_modules():
        module.register_forward_hook(lambda _, _inputs, output, name=name: found.update({name: output.shape}))
    with torch.no_grad(), QuickPass():
        network(image)
    return found


ALL = [name for name in options("model") if name not in ("timm", "torchvision")]
SOME = (
    "deepnn",
    "keras_student",
    "mlp_small",
    "mobilenetv2_half",
    "resnet8x4",
    "shufflenetv1",
    "shufflenetv2",
    "vgg8",
    "wrn_16_1",
)


@pytest.mark.parametrize("name", [name if name in SOME else pytest.param(name, marks=pytest.mark.exhaustive) for name in ALL])
def test_a_network_has_the_shapes_and_costs_that_it_has_with_values(name):
    shape = Shape(100, 3, 32)
    network = sketch_network(COMPOSER.compose([f"student={name}"])["student"], shape)
    image = shape.probe("meta", images=1)
    with torch.no_grad(), QuickPass() as quick:
        network(image)
    assert quick.counts_all(network)
    assert cost.multiply_adds(network, image) == quick.multiply_adds == counted(network, image) > 0
    real = with_values(network)
    assert shapes(network, image) == shapes(real, shape.probe("cpu", images=1))
    assert cost.multiply_adds(real, shape.probe("cpu", images=1)) == quick.multiply_adds


class Attends(NormNet):
    """Multiplies activations with each other."""

    def forward(self, image):
        tokens = self.body(image).flatten(2)
        return self.head((tokens @ tokens.transpose(1, 2)).mean(2))


class Scripted(NormNet):
    """Has a convolution that Python does not see."""

    def __init__(self, **shape):
        super().__init__(**shape)
        self.body[0] = torch.jit.script(self.body[0])


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize("family", [Attends, Scripted])
def test_what_a_quick_pass_may_miss_is_counted_by_torch(family):
    network, image = family(num_classes=3, in_channels=1, image_size=8).eval(), torch.zeros(1, 1, 8, 8)
    with torch.no_grad(), QuickPass() as quick:
        network(image)
    assert not quick.counts_all(network)
    assert cost.multiply_adds(network, image) == counted(network, image) > quick.multiply_adds


def test_rules_are_for_functions_that_torch_lets_replace():
    assert {*PRODUCTS, *OTHERS} <= set(torch.overrides.get_testing_overrides()) | {nn.init.normal_}
