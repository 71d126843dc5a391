"""Which layers every method reads where none are named, for every family, beside what its source reads.

Features are called as in the code of Tian et al. 2020 (CRD), whose networks return a list of them: f0, the stem's; f1 and on,
the ends of the stages; last the pooled vector. `f1_pre` and the like are the same before their activation (`preact=True`).
"""

from functools import cache

import pytest
import torch
import yaml
from shipped import CONF, options

from kdexp.configuration.nodes import build, target
from kdexp.data.shape import Shape
from kdexp.distillation.base import FeatureDistiller
from kdexp.network.build import build_network, on_meta
from kdexp.network.capture import Capture

SHAPE = Shape(100, 3, 32)
THREE, FOUR = ["f1", "f2", "f3"], ["f1", "f2", "f3", "f4"]


def ends(stages, *blocks):
    """Features of a network whose stages end in an activation of a sum; `blocks` are the last blocks of the stages."""
    found = {f"f{position + 1}": f"stages.{position}" for position in range(stages)}
    found |= {f"f{position + 1}_pre": f"stages.{position}.{block}.relu.input" for position, block in enumerate(blocks)}
    return found | {"activated": f"stages.{stages - 1}", "pooled": "classifier.input"}


def norms(*positions):
    """Features before the activation of stages that are flat sequences, by the position of each one's last norm."""
    return {f"f{stage + 1}_pre": f"stages.{stage}.{position}" for stage, position in enumerate(positions)}


FEATURES = {
    "resnet20": (THREE, ends(3, 2, 2, 2)),
    "resnet8x4": (THREE, ends(3, 0, 0, 0)),
    "resnet38x2": (THREE, ends(3, 5, 5, 5)),
    "wrn_16_2": (
        THREE,
        ends(3)
        | {"f1_pre": "stages.1.0.norm1", "f2_pre": "stages.2.0.norm1", "f3_pre": "norm"}  # raw sums, so the next norm's
        | {"activated": "relu"},
    ),
    "vgg8": (FOUR, ends(4) | norms(2, 2, 2, 1)),
    "vgg13": (FOUR, ends(4) | norms(5, 5, 5, 4)),
    "mobilenetv2_half": (FOUR, ends(4) | {f"f{n + 1}_pre": f"stages.{n}" for n in range(4)}),  # nothing is activated there
    "shufflenetv1": (THREE, ends(3, 3, 7, 3)),
    "shufflenetv2": (THREE, ends(3, 3, 7, 3)),
    "shufflenetv2_1_5": (THREE, ends(3, 3, 7, 3)),
    "resnet50_cifar": (FOUR, ends(4, 2, 3, 5, 2)),
}
"""Networks, the maps that theirs returns, and the layer that gives each of these here."""

READ = {
    "at": lambda maps: maps,  # feats[1:-1]
    "vid": lambda maps: maps,
    "semckd": lambda maps: maps,
    "sp": lambda maps: maps[-1:],  # feats[-2]
    "fitnet": lambda maps: ["f2"],  # feats[hint_layer], which is 2
    "rkd": lambda maps: ["pooled"],  # feats[-1]
    "crd": lambda maps: ["pooled"],
    "srrl": lambda maps: ["pooled"],
    "reviewkd": lambda maps: [*maps, "pooled"],
    "simkd": lambda maps: ["activated"],  # feats[-2] of nets that all end activated: those that it calls WRN are resnets
    "hint": lambda maps: ["activated"],  # the tutorial's `features`, the last thing before the classifier
    "cosine": lambda maps: ["activated"],
    "feature_cosine": lambda maps: ["activated"],
    "feature_pretraining": lambda maps: ["activated"],
}
"""The maps of a network that each method reads."""

OF_THE_TEACHER = {"reviewkd": lambda maps: [*(f"{name}_pre" for name in maps), "pooled"]}  # preact=True
NO_LAYERS = {"kd", "dkd", "mse_logits", "label_smoothing", "none", "mutual", "function_matching"}
WITH_A_HEAD = {"mobilenetv2_half", "shufflenetv2", "shufflenetv2_1_5"}
"""Networks whose classifier does not read the pooled last map, so they can't be teachers for simkd."""


def node(group, name):
    return yaml.safe_load((CONF / group / f"{name}.yaml").read_text())


@cache
def network(name, shape=SHAPE):
    return on_meta(node("model", name), shape)


def layers(method, student, teacher):
    """Returns the layers that the method reads in both networks."""
    return build(node("distillation", method)).layers(network(student), network(teacher))


def test_every_method_has_its_line():
    assert set(READ) | NO_LAYERS | {"sum"} == set(options("distillation"))
    assert not any(issubclass(target(node("distillation", method)), FeatureDistiller) for method in NO_LAYERS)


@pytest.mark.parametrize("name", FEATURES)
@pytest.mark.parametrize("method", READ)
def test_a_method_reads_the_layers_of_its_source(method, name):
    maps, called = FEATURES[name]
    teacher = "resnet8x4" if method == "simkd" and name in WITH_A_HEAD else name
    ours, theirs = layers(method, name, teacher)
    assert ours == [called[feature] for feature in READ[method](maps)]
    if teacher == name:
        assert theirs == [called[feature] for feature in OF_THE_TEACHER.get(method, READ[method])(maps)]


@pytest.mark.parametrize(("student", "teacher"), [("vgg8", "resnet20"), ("shufflenetv1", "resnet50_cifar")])
def test_networks_with_unequal_numbers_of_stages_pair_the_first_ones_and_compare_the_last(student, teacher):
    first = ["stages.0", "stages.1", "stages.2"]
    assert layers("at", student, teacher) == layers("vid", student, teacher) == (first, first)
    both = (FEATURES[student], FEATURES[teacher])
    assert layers("sp", student, teacher) == tuple([called[maps[-1]]] for maps, called in both)
    assert tuple(map(len, layers("semckd", student, teacher))) == tuple(len(maps) for maps, _ in both)


def test_the_stages_of_a_wide_residual_net_end_in_sums_before_activation():
    net = build_network(node("model", "wrn_16_1"), SHAPE)
    names = ["stages.1", "stages.2.0.norm1.input", "stages.2", "norm.input", "relu"]
    found = Capture(net, names, torch.randn(2, 3, 32, 32)).probe.features
    for sums, read in (("stages.1", "stages.2.0.norm1.input"), ("stages.2", "norm.input")):
        assert torch.equal(found[sums], found[read]) and (found[sums] < 0).any()
    assert (found["relu"] >= 0).all()


@pytest.mark.parametrize(("name", "image_size"), [("mlp_small", 8), ("lightnn", 32), ("keras_student", 28)])
def test_without_stages_sp_compares_the_last_maps(name, image_size):
    net = network(name, Shape(10, 1, image_size))
    assert net.landmarks.stages == ()
    assert build(node("distillation", "sp")).layers(net, net) == ([net.landmarks.last_map], [net.landmarks.last_map])
