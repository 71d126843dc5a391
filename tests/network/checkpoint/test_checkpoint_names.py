"""Checkpoints of the papers' own code: all networks under its names."""

from pathlib import Path

import foreign_names as foreign
import pytest
import torch
import yaml
from published_sizes import PUBLISHED
from safetensors.torch import save_file

from kdexp.configuration.shipped import conf_dir
from kdexp.data.shape import Shape
from kdexp.errors import BadCheckpoint
from kdexp.network.build import build_network
from kdexp.network.checkpoint.entries import Entry
from kdexp.network.checkpoint.fit import load_checkpoint
from kdexp.network.checkpoint.stored_tensors import StoredTensor
from kdexp.network.checkpoint.weights import choose


def node(name):
    return yaml.safe_load((Path(conf_dir()) / "model" / f"{name}.yaml").read_text())


def family(target, **given):
    return {"_target_": f"kdexp.models.{target}", **given}


SMALL = {
    "resnet": (family("resnet_cifar.ResNet", depth=14, widths=[4, 4, 6, 8]), foreign.resnet_logits, 16),
    "resnet of one width": (family("resnet_cifar.ResNet", depth=14, widths=[4, 4, 4, 4]), foreign.resnet_logits, 16),
    "bottlenecks": (family("bottleneck_resnet.BottleneckResNet", blocks=[1, 2, 1, 1]), foreign.resnet_logits, 8),
    "wrn": (family("wide_resnet.WideResNet", depth=16, widen=1), foreign.wide_resnet_logits, 16),
    "vgg": (family("vgg_cifar.VGG", convolutions=[2, 1, 2, 1, 2], widths=[4] * 5), foreign.vgg_logits, 32),
    "vgg at 64": (family("vgg_cifar.VGG", convolutions=[2, 1, 2, 1, 2], widths=[4] * 5), foreign.vgg_logits, 64),
    "mobilenetv2": (family("mobilenetv2_cifar.MobileNetV2", width=0.25), foreign.mobilenet_logits, 32),
    "shufflenetv1": (
        family("shufflenetv1_cifar.ShuffleNetV1", blocks=[2, 3, 2], widths=[48, 96, 192], groups=3),
        foreign.shufflenet_v1_logits,
        16,
    ),
    "shufflenetv2": (
        family("shufflenetv2_cifar.ShuffleNetV2", blocks=[2, 3, 2], widths=[16, 16, 16], head=12),
        foreign.shufflenet_v2_logits,
        16,
    ),
}


def small(name):
    described, logits, size = SMALL[name]
    state = foreign.random_state(foreign.rows_of(described, size))
    return build_network(described, Shape(foreign.CLASSES, 3, size)).eval(), state, logits, torch.randn(3, 3, size, size)


@torch.no_grad()
@pytest.mark.parametrize("name", SMALL)
def test_a_network_equals_the_papers_code_with_the_same_weights(tmp_path, name):
    network, state, logits, images = small(name)
    torch.save({"model": state, "epoch": 240, "best_acc": 70.0}, tmp_path / "net.pth")
    *_, translated = load_checkpoint(network, tmp_path / "net.pth")
    expected = logits(state, images)
    assert expected.std() > 1e-3
    torch.testing.assert_close(network(images), expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
    assert translated.startswith(f"{tmp_path / 'net.pth'}: names of ") and " translated: " in translated


def entries(state, prefix=""):
    return [
        Entry((), f"{prefix}{name}", StoredTensor(tuple(size), torch.float32, stride=(position,)))
        for position, (name, size) in enumerate(state)
    ]


@pytest.mark.parametrize(("name", "size"), [*((name, 32) for name in PUBLISHED), ("vgg8", 64), ("vgg19", 64)])
def test_every_tensor_of_every_network_is_translated_correctly(name, size):
    described = node(name)
    with torch.device("meta"):
        own = build_network(described, Shape(foreign.CLASSES, 3, size)).state_dict()
    theirs = list(foreign.tensors(foreign.rows_of(described, size)))
    found = entries([(name, size) for name, _, size in reversed(theirs)], "module.")
    part = choose(found, own)
    assert {ours: entry.name for ours, entry in part.found.items()} == {ours: f"module.{there}" for there, ours, _ in theirs}
    assert part.found.keys() == own.keys() and part.misshapen(own) == 0 and part.prefix == "module."


@pytest.mark.parametrize("changed", [{"fc": "linear"}, {"downsample": "shortcut"}, {"fc": "linear", "downsample": "shortcut"}])
def test_other_names_of_two_modules_in_residual_nets_are_translated(tmp_path, changed):
    network, state, logits, images = small("resnet")
    renamed = {}
    for name, value in state.items():
        for before, after in changed.items():
            name = name.replace(before, after)
        renamed[name] = value
    torch.save(renamed, tmp_path / "net.pth")
    load_checkpoint(network, tmp_path / "net.pth")
    torch.testing.assert_close(network(images), logits(state, images), rtol=1e-4, atol=1e-4)


def test_the_order_of_a_file_does_not_matter(tmp_path):
    network, state, logits, images = small("resnet of one width")
    save_file(state, tmp_path / "sorted.safetensors")
    load_checkpoint(network, tmp_path / "sorted.safetensors")
    torch.testing.assert_close(network(images), logits(state, images), rtol=1e-4, atol=1e-4)


def test_the_note_shows_the_first_and_last_translated_names(tmp_path):
    network, state, *_ = small("resnet")
    torch.save({"model": {f"module.{name}": value for name, value in state.items()}}, tmp_path / "net.pth")
    path = tmp_path / "net.pth"
    assert load_checkpoint(network, path) == (
        f"{path}: weights read from 'model'",
        f"{path}: 'module.' dropped from the names",
        f"{path}: names of the CRD code's resnet translated: conv1 → stem.0, bn1 → stem.1, …, fc → classifier",
    )


def refusal(path, network, state):
    torch.save(state, path)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(BadCheckpoint) as refused:
        load_checkpoint(network, path)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    return str(refused.value)


def test_a_deeper_or_shallower_net_of_the_family_is_refused(tmp_path):
    shallow = build_network(family("resnet_cifar.ResNet", depth=8, widths=[4, 4, 6, 8]), Shape(foreign.CLASSES, 3, 16))
    network, state, *_ = small("resnet")
    assert "36 tensors differ, first layer1.1.conv1.weight (model none, file 4×4×3×3)" in refusal(
        tmp_path / "a", shallow, state
    )
    deep = foreign.random_state(foreign.resnet([4, 4, 6, 8], [1] * 3))
    message = refusal(tmp_path / "b", network, deep)
    assert "30 tensors differ, first stages.0.1.residual.0.weight (model 4×4×3×3, file none)" in message


def test_another_family_is_refused_with_names_of_both_sides(tmp_path):
    network, *_ = small("resnet")
    message = refusal(tmp_path / "net.pth", network, small("wrn")[1])
    assert "does not fit ResNet: " in message and "first stem.0.weight (model 4×3×3×3, file none)" in message
    assert message.endswith("names in the file: conv1.weight, block1.layer.0.bn1.weight, block1.layer.0.bn1.bias and 79 more")


def test_a_classifier_under_two_names_is_refused(tmp_path):
    network, state, *_ = small("resnet")
    refusal(tmp_path / "net.pth", network, state | {"linear.weight": state["fc.weight"], "linear.bias": state["fc.bias"]})
