"""Pretrained teachers without a classifier, and with one that is trained on a frozen backbone."""

import pytest
import torch
from experiments import compose_command, said
from own_networks import NormNet
from torch import nn

from kdexp.data.shape import Shape
from kdexp.deployment.rebuild import deployed_network
from kdexp.experiment.obtain import obtain
from kdexp.experiment.starts import start_notes
from kdexp.network.build import build_network, start
from kdexp.network.headless import NoClassifier, is_headless
from kdexp.report.remarks import remarks
from kdexp.validation.validator import validate

SHAPE = Shape(10, 1, 8)
OWN = {"_target_": "own_networks.NormNet"}
COSINE = ["distillation=feature_cosine", "distillation.student_layers=[features]"]
"""The student is an MLP, whose features are vectors."""


@pytest.fixture(params=[True, False], ids=["with a classifier", "without"])
def file(tmp_path, request):
    """Weights of a backbone, perhaps with a classifier for other classes."""
    torch.manual_seed(3)
    network = NormNet(num_classes=7, in_channels=1, image_size=8)
    weights = {name: value for name, value in network.state_dict().items() if request.param or not name.startswith("head.")}
    torch.save(weights, tmp_path / "backbone.pt")
    return tmp_path / "backbone.pt"


def teacher(*words):
    return ["teacher._target_=own_networks.NormNet", "~teacher.hidden", *words]


def problems(*words):
    return [str(problem) for problem in validate(compose_command([*teacher(), *words]))]


def test_a_network_without_a_classifier_gives_zeros_and_has_no_such_weights():
    network = build_network(OWN | {"head": "none"}, SHAPE)
    assert is_headless(network) and not is_headless(build_network(OWN, SHAPE))
    assert torch.equal(network(torch.rand(2, 1, 8, 8)), torch.zeros(2, 10))
    assert not any(name.startswith("head") for name in network.state_dict())
    convolution = NoClassifier(nn.Conv2d(8, 7, 1), 7)
    assert convolution(torch.rand(2, 8, 3, 3)).shape == (2, 7, 3, 3) and not list(convolution.parameters())


def test_published_weights_are_loaded_as_if_it_had_its_classifier():
    class Published:
        def load(self, network):
            network.load_state_dict({name: torch.ones_like(value) for name, value in network.state_dict().items()})

    network = build_network(OWN | {"head": "none"}, SHAPE)
    network.published = Published()
    assert start(network, None) == () and is_headless(network)
    assert all((value == 1).all() for value in network.state_dict().values())


def test_a_backbone_teaches_features_and_its_row_has_no_accuracy(make_experiment, file):
    experiment = make_experiment(*teacher(f"teacher.checkpoint={file}", "teacher.head=none"), *COSINE)
    assert validate(experiment.config) == []
    entries = obtain(experiment)
    result = {entry.role: entry.stored.result for entry in entries}
    assert result["teacher"]["test"]["last"]["top1"] is None and result["teacher"]["method"] == "features alone"
    assert result["teacher"]["parameters"] == 8 * 9 + 8 + 16
    assert "feature_cosine" in result["distilled"]["history"][0] and result["distilled"]["test"]["last"]["top1"]
    assert torch.equal(deployed_network(entries[0].stored).body[0].weight, torch.load(file)["body.0.weight"])
    assert start_notes(experiment)[-1].endswith("classifier head not used and accuracy not shown (head=none)")
    assert "has no classifier for these classes: it teaches features" in "\n".join(remarks(entries, experiment))


def test_a_probe_trains_the_classifier_alone(make_experiment, file):
    words = teacher(f"teacher.checkpoint={file}", "teacher.head=probe", "distillation=kd")
    experiment = make_experiment(*words)
    assert validate(experiment.config) == []
    (entry,) = obtain(experiment, ["teacher"])
    network, before = deployed_network(entry.stored), torch.load(file)
    assert all(torch.equal(value, before[f"body.{name}"]) for name, value in network.body.state_dict().items())
    assert entry.spec.epochs == 2 and entry.stored.result["test"]["last"]["top1"] is not None
    assert entry.method == "CE, linear probe" and "test accuracy" in said(experiment)
    assert not torch.equal(network.head.weight, build_network(OWN, SHAPE).head.weight)
    assert entry.spec.key != make_experiment(*words, "teacher.head=null").spec("teacher").key


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["teacher.head=probe"], "teacher.head='probe': the backbone would stay untrained; give teacher.checkpoint=FILE"),
        (["teacher.head=linear"], "teacher.head='linear': must be one of none, probe (or null)"),
        (["teacher.checkpoint=FILE", "teacher.head=none", "distillation=kd"],
         "teacher.head='none': it gives no logits, and kd reads the teacher's logits; take teacher.head=probe, which"),
    ],
)  # fmt: skip
def test_what_a_head_can_not_be_is_refused(tmp_path, words, sentence):
    torch.save(NormNet(num_classes=7, in_channels=1, image_size=8).state_dict(), tmp_path / "net.pt")
    method = [] if "distillation=kd" in words else COSINE
    (found,) = problems(*method, *(word.replace("FILE", str(tmp_path / "net.pt")) for word in words))
    assert found.startswith(sentence)


class WithOwnHead(NormNet):
    """A network with an argument of that name."""

    def __init__(self, *, num_classes: int, in_channels: int, image_size: int, head: int):
        super().__init__(num_classes=num_classes, in_channels=in_channels, image_size=image_size, width=head)


def test_a_networks_own_argument_of_that_name_is_left_to_it():
    words = ["teacher._target_=test_foundation_teachers.WithOwnHead", "teacher.head=4"]
    assert problems(*COSINE, *words, "distillation.teacher_layers=[head.input]") == []
    assert build_network({"_target_": "test_foundation_teachers.WithOwnHead", "head": 4}, SHAPE).body[0].out_channels == 4
