"""The networks for 32×32 images: published parameter counts, maps, landmarks, initial values, blocks of other libraries."""

from functools import partial
from math import sqrt
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml
from experiments import COMPOSER, compose_command
from published_sizes import PUBLISHED
from squares import SQUARES
from torch import nn
from torchvision import models

from kdexp.configuration.nodes import build
from kdexp.configuration.shipped import conf_dir
from kdexp.data.shape import Shape
from kdexp.experiment.obtain import obtain
from kdexp.models.bottleneck_resnet import BottleneckResNet
from kdexp.models.mobilenetv2_cifar import Block as InvertedBlock
from kdexp.models.mobilenetv2_cifar import MobileNetV2
from kdexp.models.resnet_cifar import Block, ResNet
from kdexp.models.shufflenetv1_cifar import ShuffleNetV1
from kdexp.models.shufflenetv2_cifar import ShuffleNetV2
from kdexp.models.vgg_cifar import VGG
from kdexp.models.wide_resnet import Block as WideBlock
from kdexp.network.build import build_network, on_meta
from kdexp.network.capture import Capture
from kdexp.network.cost import parameter_count
from kdexp.validation.validator import validate

HUNDRED = Shape(num_classes=100, in_channels=3, image_size=32)


TEN_CLASSES = {
    "resnet8": 78_042,
    "resnet20": 272_474,
    "resnet8x4": 1_210_410,
    "wrn_16_2": 691_674,
    "wrn_28_2_ssl": 1_467_610,
    "wrn_28_10": 36_479_194,
    "vgg8": 3_918_858,
    "mobilenetv2_half": 697_546,
    "shufflenetv1": 862_768,
    "shufflenetv2": 1_263_278,
}
FAMILIES = ["resnet8x4", "wrn_16_2", "vgg8", "mobilenetv2_half", "shufflenetv1", "shufflenetv2", "resnet50_cifar"]
"""One network of each family."""

QUICK = ["resnet8x4", "wrn_16_2", "mobilenetv2_half", "shufflenetv1"]
OTHERS = [pytest.param(name, marks=pytest.mark.exhaustive) for name in PUBLISHED if name not in (*QUICK, "wrn_28_10")]
"""All networks except wrn_28_10, which is wrn_28_4 with wider layers and takes longer than its whole family together."""


def node(name):
    return yaml.safe_load((Path(conf_dir()) / "model" / f"{name}.yaml").read_text())


def real(name, shape=HUNDRED):
    torch.manual_seed(0)
    return build_network(node(name), shape).eval()


def captured(network, layers, image):
    return Capture(network, layers, image).probe.features


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_and_maps_are_the_published_ones(name):
    count, maps = PUBLISHED[name]
    network = on_meta(node(name), HUNDRED)
    assert parameter_count(network) == count
    found = network.landmarks
    features = captured(network, [*found.stages, found.last_map, *found.preactivations, found.pooled], HUNDRED.probe("meta"))
    assert " ".join(f"{features[stage].shape[1]}@{features[stage].shape[2]}" for stage in found.stages) == maps
    assert [features[layer].shape for layer in found.preactivations] == [features[stage].shape for stage in found.stages]
    assert features[found.last_map].shape == features[found.stages[-1]].shape
    assert features[found.pooled].shape == (2, network.classifier.in_features)


@pytest.mark.parametrize("name", TEN_CLASSES)
def test_parameters_at_ten_classes_are_the_published_ones(name):
    assert parameter_count(on_meta(node(name), Shape(10, 3, 32))) == TEN_CLASSES[name]


def test_every_network_has_a_published_parameter_count():
    ours = (ResNet, BottleneckResNet, VGG, MobileNetV2, ShuffleNetV1, ShuffleNetV2)
    targets = {f"{family.__module__}.{family.__name__}" for family in ours} | {"kdexp.models.wide_resnet.WideResNet"}
    shipped = [path.stem for path in (Path(conf_dir()) / "model").glob("*.yaml")]
    assert {name for name in shipped if node(name)["_target_"] in targets} == set(PUBLISHED)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_the_classifier_makes_logits_of_the_pooled_vector(name):
    network, image = real(name), torch.randn(2, 3, 32, 32)
    outputs = Capture(network, [network.landmarks.last_map, network.landmarks.pooled], image).probe
    pooled = outputs.features[network.landmarks.pooled]
    assert torch.equal(network.classifier(pooled), outputs.logits)
    if not hasattr(network, "head"):  # a further convolution
        assert torch.equal(outputs.features[network.landmarks.last_map].mean((2, 3)), pooled)


def shuffled(maps):
    first, second = maps.chunk(2, 1)
    return torch.stack([first, second], 2).flatten(1, 2)


ACTIVATED = {
    "resnet14": F.relu,
    "vgg11": F.relu,
    "shufflenetv1": F.relu,
    "resnet50_cifar": F.relu,
    "shufflenetv2": lambda maps: shuffled(F.relu(maps)),
    "mobilenetv2_half": lambda maps: maps,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ACTIVATED)
def test_a_stage_is_its_preactivation_activated(name):
    network, image = real(name), torch.randn(2, 3, 32, 32)
    found = network.landmarks
    features = captured(network, [*found.stages, *found.preactivations], image)
    for stage, before in zip(found.stages, found.preactivations, strict=True):
        assert (features[before] < 0).any()
        assert torch.equal(ACTIVATED[name](features[before]), features[stage])


def test_the_preactivations_of_a_wide_net_are_its_stages_normalised():
    network, image = real("wrn_16_2").train(), torch.randn(2, 3, 32, 32)
    network(image)  # so that the statistics are no longer 0 and 1
    found = network.landmarks
    features = captured(network, [*found.stages, *found.preactivations, found.last_map], image)
    network.eval()
    for stage, norm in zip(found.stages, found.preactivations, strict=True):
        assert torch.equal(network.get_submodule(norm)(features[stage]), features[norm])
        assert not torch.equal(features[stage], features[norm])
    assert torch.equal(features[found.preactivations[-1]].relu(), features[found.last_map])


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FAMILIES if not name.startswith("shuffle")])
def test_convolutions_start_from_normal_values_with_the_variance_of_their_fan_out(name):
    network = real(name)
    large = 0
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 10_000:
            large += 1
            wanted = sqrt(2 / (module.out_channels * module.kernel_size[0] ** 2))
            assert module.weight.std().item() == pytest.approx(wanted, rel=0.04)
            assert abs(module.weight.mean().item()) < 0.05 * wanted
            assert module.weight.abs().max() > 3.2 * wanted, "uniform values end at 1.7"
        if isinstance(module, nn.BatchNorm2d):
            assert bool((module.weight == 1).all()) and bool((module.bias == 0).all())
    assert large >= 3


@pytest.mark.parametrize(("name", "std"), [("vgg8", 0.01), ("mobilenetv2_half", 0.01), ("wrn_16_2", 1 / sqrt(3 * 128))])
def test_a_classifier_starts_without_bias(name, std):
    classifier = real(name).classifier
    assert classifier.weight.std().item() == pytest.approx(std, rel=0.03)
    assert not classifier.bias.any()


def test_the_biases_of_vggs_convolutions_start_at_zero():
    biases = [module.bias for module in real("vgg8").modules() if isinstance(module, nn.Conv2d)]
    assert len(biases) == 5 and not any(bias.any() for bias in biases)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_a_single_grey_image_gives_logits(name):
    shape = Shape(num_classes=7, in_channels=1, image_size=28)
    assert real(name, shape)(shape.probe("cpu", images=1)).shape == (1, 7)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), [(name, size) for name in FAMILIES for size in (8, 64, 33)])
def test_other_image_sizes_work(name, size):
    network = on_meta(node(name), Shape(10, 3, size))
    assert network(torch.zeros(3, 3, size, size, device="meta")).shape == (3, 10)


@pytest.mark.slow
def test_vgg_pools_once_more_from_64_pixels():
    for size, last in ((32, 4), (63, 7), (64, 4)):
        network = on_meta(node("vgg8"), Shape(10, 3, size))
        assert captured(network, ["stages.3"], Shape(10, 3, size).probe("meta"))["stages.3"].shape == (2, 512, last, last)


# Blocks of torchvision and timm, which list their weights in the order of ours.


@torch.no_grad()
def same_answers(ours, theirs, image):
    """Gives both networks the same random values, batch norm's statistics included, and compares their outputs."""
    torch.manual_seed(1)
    state = {name: torch.rand_like(value, dtype=torch.float) - 0.3 for name, value in ours.state_dict().items()}
    state = {name: value.abs() + 0.5 if "running_var" in name else value for name, value in state.items()}
    assert [value.shape for value in state.values()] == [value.shape for value in theirs.state_dict().values()]
    ours.load_state_dict(state)
    theirs.load_state_dict(dict(zip(theirs.state_dict(), state.values(), strict=True)))
    expected = theirs.eval()(image)
    assert expected.std() > 0
    torch.testing.assert_close(ours.eval()(image), expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize(("ins", "outs", "stride"), [(8, 8, 1), (8, 16, 2), (8, 16, 1)])
def test_the_residual_block_is_torchvisions(ins, outs, stride):
    shortcut = nn.Sequential(nn.Conv2d(ins, outs, 1, stride, bias=False), nn.BatchNorm2d(outs))
    theirs = models.resnet.BasicBlock(ins, outs, stride, None if ins == outs else shortcut)
    same_answers(Block(ins, outs, stride), theirs, torch.randn(2, ins, 8, 8))


@pytest.mark.slow
def test_the_bottleneck_net_is_torchvisions_with_a_small_stem():
    theirs = models.resnet.ResNet(models.resnet.Bottleneck, [1, 2, 1, 1], num_classes=5)
    theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    ours = BottleneckResNet(num_classes=5, in_channels=3, image_size=32, blocks=[1, 2, 1, 1])
    same_answers(ours, theirs, torch.randn(2, 3, 16, 16))


@pytest.mark.parametrize(("ins", "outs", "stride"), [(8, 8, 1), (8, 16, 2), (8, 16, 1)])
def test_the_wide_nets_block_is_timms(ins, outs, stride):
    pytest.importorskip("timm")
    from timm.layers import BatchNormAct2d, create_conv2d
    from timm.models.resnetv2 import DownsampleConv, PreActBasic

    layers = {"conv_layer": create_conv2d, "norm_layer": partial(BatchNormAct2d, act_layer=nn.ReLU)}
    theirs = PreActBasic(ins, outs, stride=stride, proj_layer=DownsampleConv, **layers)
    if theirs.downsample is not None:
        theirs._modules["downsample"] = theirs._modules.pop("downsample")
    same_answers(WideBlock(ins, outs, stride), theirs, torch.randn(2, ins, 8, 8))


def test_a_wide_net_of_semi_supervised_learning_by_hand():
    made = build(node("wrn_28_2_ssl") | {"depth": 10, "stem_width": 5}, num_classes=3, in_channels=1, image_size=8)

    def active(norm, image):
        mean, variance = image.mean((0, 2, 3), keepdim=True), image.var((0, 2, 3), correction=0, keepdim=True)
        return F.leaky_relu((image - mean) / (variance + 0.001).sqrt(), 0.1)

    image = torch.randn(4, 1, 8, 8)
    sums = made.stem(image)
    for number, (block,) in enumerate(made.stages):
        first = active(block.norm1, sums)
        residual = block.conv2(active(block.norm2, block.conv1(first)))
        sums = residual + block.shortcut(sums if number else first)
    expected = made.classifier(active(made.norm, sums).mean((2, 3)))
    assert made.stem.weight.shape[0] == 5
    torch.testing.assert_close(made(image), expected, rtol=1e-4, atol=1e-4)
    running = made.norm.running_mean
    assert torch.allclose(running, 0.001 * sums.mean((0, 2, 3)), atol=1e-6) and running.abs().sum() > 0


def test_knobs_of_wide_nets_change_nothing_by_default():
    usual = {"stem_width": 16, "norm_momentum": 0.1, "norm_eps": 1e-5, "slope": 0.0, "raw_shortcuts": False}
    found = []
    for knobs in ({}, usual):
        torch.manual_seed(0)
        found.append(build(node("wrn_16_2") | knobs, num_classes=10, in_channels=3, image_size=32))
    image = torch.randn(2, 3, 32, 32)
    assert torch.equal(found[0](image), found[1](image)) and repr(found[0]) == repr(found[1])
    assert type(found[0].relu) is nn.ReLU and vars(found[0].norm)["momentum"] == nn.BatchNorm2d(1).momentum
    assert found[0].norm.eps == nn.BatchNorm2d(1).eps


@pytest.mark.slow
@pytest.mark.parametrize("depth", [11, *(pytest.param(depth, marks=pytest.mark.slow) for depth in (13, 16, 19))])
def test_the_convolutions_of_vgg_are_torchvisions(depth):
    letter = {11: "A", 13: "B", 16: "D", 19: "E"}[depth]
    layers = list(models.vgg.make_layers(models.vgg.cfgs[letter], batch_norm=True))  # without 120 million other weights
    pools = [position for position, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]
    theirs = nn.Sequential(*(layer for position, layer in enumerate(layers) if position not in pools[3:]))
    ours = build(node(f"vgg{depth}"), num_classes=2, in_channels=3, image_size=32)
    same_answers(nn.Sequential(ours.stem, ours.stages), theirs, torch.randn(1, 3, 8, 8))


@pytest.mark.parametrize(("ins", "outs", "stride"), [(8, 8, 1), (8, 12, 1), (8, 8, 2)])
def test_the_inverted_block_is_torchvisions_with_relu(ins, outs, stride):
    theirs = models.mobilenetv2.InvertedResidual(ins, outs, stride, 6)
    for name, module in list(theirs.named_modules()):
        if isinstance(module, nn.ReLU6):
            theirs.set_submodule(name, nn.ReLU())
    same_answers(InvertedBlock(ins, outs, stride, 6), theirs, torch.randn(2, ins, 8, 8))


@pytest.mark.parametrize("width", [0.5, 1.0])
def test_mobilenet_has_torchvisions_parameters_and_the_first_expansion(width):
    theirs = models.MobileNetV2(num_classes=9, width_mult=width, round_nearest=1)
    stem = int(32 * width)
    ours = MobileNetV2(num_classes=9, in_channels=3, image_size=32, width=width)
    assert parameter_count(ours) == parameter_count(theirs) + stem * stem + 2 * stem


def test_the_stages_of_shufflenetv2_are_torchvisions():
    theirs = models.ShuffleNetV2([4, 8, 4], [24, 116, 232, 464, 1024], num_classes=2)
    ours = build(node("shufflenetv2"), num_classes=2, in_channels=3, image_size=32)
    stages = nn.Sequential(theirs.stage2, theirs.stage3, theirs.stage4, theirs.conv5)
    same_answers(nn.Sequential(ours.stages, ours.head), stages, torch.rand(2, 24, 16, 16))


@torch.no_grad()
def test_the_block_of_shufflenetv1_by_hand():
    torch.manual_seed(0)
    net = ShuffleNetV1(num_classes=2, in_channels=3, image_size=32, blocks=[2], widths=[48], groups=3).eval()
    block, image = net.stages[0][1], torch.randn(2, 48, 4, 4)
    grouped, depthwise, last = (module.weight for module in block.modules() if isinstance(module, nn.Conv2d))
    scale = 1 / sqrt(1 + 1e-5)  # batch norm that has seen nothing yet
    narrow = F.relu(scale * F.conv2d(image, grouped, groups=3))
    mixed = narrow[:, [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]]  # the first of each group, the second of each, ...
    inner = F.relu(scale * F.conv2d(mixed, depthwise, padding=1, groups=12))
    torch.testing.assert_close(block(image), F.relu(image + scale * F.conv2d(inner, last, groups=3)))


def test_shufflenetv1_concatenates_the_averages_with_the_convolved_channels():
    stage = ShuffleNetV1(num_classes=2, in_channels=3, image_size=32, blocks=[1], widths=[48], groups=3).stages[0].eval()
    image = torch.rand(1, 24, 6, 6)
    assert torch.equal(stage(image)[:, 24:], F.avg_pool2d(image, 3, stride=2, padding=1))


REFUSALS = [
    ("resnet8", ["depth=10"], ["student.depth=10: must be 6n+2 for n blocks per stage, such as 8 or 14"]),
    ("resnet8", ["depth=3"], ["student.depth=3: must be 6n+2 for n blocks per stage, such as 8 or 14"]),
    (
        "resnet8",
        ["depth=51", "widths=[8,8]"],
        [
            "student.depth=51: must be 6n+2 for n blocks per stage, such as 50 or 56",
            "student.widths=[8, 8]: must be four, of the stem and of the three stages",
        ],
    ),
    ("resnet8", ["widths=[0,8,8,8]"], ["student.widths=[0, 8, 8, 8]: each entry must be at least 1"]),
    ("wrn_16_2", ["depth=20"], ["student.depth=20: must be 6n+4 for n blocks per stage, such as 16 or 22"]),
    ("wrn_16_2", ["widen=0.5"], ["student.widen=0.5: must be a whole number"]),
    ("vgg8", ["convolutions=[1,1]"], ["student.convolutions=[1, 1]: must be five, the stem's first"]),
    ("vgg8", ["widths=[8]"], ["student.widths=[8]: must be five, the stem's first"]),
    ("mobilenetv2", ["width=0.01"], ["student.width=0.01: must be at least 0.0625"]),
    ("shufflenetv1", ["groups=4"], ["student.groups=4: must be one of 1, 2, 3"]),
    (
        "shufflenetv1",
        ["widths=[240,490,960]"],
        ["student.widths=[240, 490, 960]: must be multiples of 12 (4 × groups) that grow from 24, the width of the stem"],
    ),
    ("shufflenetv1", ["blocks=[4]"], ["student.blocks=[4]: must be as many as widths=[240, 480, 960], one per stage"]),
    ("shufflenetv2", ["blocks=[]"], ["student.blocks=[]: must be as many as widths=[116, 232, 464], one per stage"]),
    ("shufflenetv2", ["widths=[7,8,9]"], ["student.widths=[7, 8, 9]: must be even, as channels are split into halves"]),
    ("resnet50_cifar", ["blocks=[3,4]"], ["student.blocks=[3, 4]: must be four numbers, one per stage"]),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "words", "sentences"), REFUSALS)
def test_refused_with_a_sentence(name, words, sentences):
    config = compose_command([*SQUARES, f"student={name}", *(f"student.{word}" for word in words)])
    assert [str(problem) for problem in validate(config)] == sentences


@pytest.mark.slow
def test_images_too_small_for_vgg_are_refused_with_the_size_it_needs():
    config = compose_command([*SQUARES, "dataset.image_size=6", "student=vgg8"])
    (problem,) = validate(config)
    assert str(problem) == "student: VGG needs images of at least 8×8, not 6×6; try dataset.image_size=8"


@pytest.mark.slow
@pytest.mark.parametrize("name", [*QUICK, *OTHERS])
def test_a_network_teaches_and_learns(make_experiment, name):
    words = [*SQUARES, f"teacher={name}", f"student={name}", "distillation=kd"]
    assert validate(COMPOSER.compose(words)) == []
    entries = obtain(make_experiment(*words, "limit_batches=2", "batch_size=8"))
    assert [entry.role for entry in entries] == ["teacher", "baseline", "distilled"]
    assert all(entry.stored and not entry.failure for entry in entries)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*QUICK, *OTHERS, pytest.param("wrn_28_10", marks=pytest.mark.exhaustive)])
def test_a_network_is_valid_for_every_32_pixel_data_set(name):
    for dataset in ("cifar10", "cifar100"):
        words = [f"dataset={dataset}", "dataset.root=data", f"teacher={name}", f"student={name}"]
        assert validate(COMPOSER.compose(words)) == []
