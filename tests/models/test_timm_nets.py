import sys

import pytest
import torch
from experiments import compose_command
from squares import SQUARES

from kdexp.configuration.nodes import build
from kdexp.data.shape import Shape
from kdexp.errors import DataUnavailable
from kdexp.experiment.obtain import obtain
from kdexp.network.build import build_network, on_meta, start
from kdexp.network.capture import Capture
from kdexp.training.sketch import sketch_method
from kdexp.validation.validator import validate

timm = pytest.importorskip("timm")

SHAPE = Shape(num_classes=4, in_channels=1, image_size=64)


def node(name, weights=None):
    return {"_target_": "kdexp.models.timm_nets.timm_net", "name": name, "weights": weights}


def complaints(*overrides):
    config = compose_command([*SQUARES, "teacher=timm", "student=timm", *overrides])
    return [str(problem) for problem in validate(config)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "classifier", "last_map", "shape"),
    [
        ("resnet18", "fc", "layer4", (512, 2, 2)),
        ("mobilenetv3_small_050", "classifier", "blocks", (288, 2, 2)),
        ("convnext_atto", "head.fc", "stages", (320, 2, 2)),
        ("swin_tiny_patch4_window7_224", "head.fc", "norm", (768, 2, 2)),
        ("vit_tiny_patch16_224", "head", "norm", (17, 192)),
    ],
)
def test_a_network_of_timm_gives_logits_and_has_landmarks(name, classifier, last_map, shape):
    network = on_meta(node(name), SHAPE)
    assert network(SHAPE.probe("meta")).shape == (2, 4)
    assert (network.landmarks.classifier, network.landmarks.last_map) == (classifier, last_map)
    assert Capture(network, [last_map], SHAPE.probe("meta")).probe.features[last_map].shape == (2, *shape)


@pytest.mark.slow
def test_a_network_of_timm_teaches_and_learns(make_experiment):
    nets = ["teacher=timm", "teacher.name=mobilenetv3_small_050", "student=timm", "student.name=mobilenetv3_small_050"]
    entries = obtain(make_experiment(*SQUARES, *nets, "distillation=hint", "limit_batches=1"))
    assert len(entries) == 3 and all(entry.stored and not entry.failure for entry in entries)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["student.name=resnet188"], "student.name='resnet188': no such network in timm; close: resnet18, "),
        (["student.weights=V1"], "student.weights='V1': resnet18 has DEFAULT, a1_in1k, "),
        (["teacher.name=test_vit", "teacher.weights=V1"], "teacher.weights='V1': test_vit has DEFAULT, r160_in1k (or null)"),
    ],
)
def test_refused_with_a_sentence(words, sentence):
    (found,) = complaints(*words)
    assert sentence in found


@pytest.mark.slow
def test_without_timm_the_command_that_installs_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    found = complaints()
    assert found == [f"{role}: timm is not installed; pip install timm" for role in ("teacher", "student")]


def test_published_weights_are_loaded_and_the_classifier_follows_the_seed(tmp_path, monkeypatch):
    reference = timm.create_model("test_resnet")
    torch.save(reference.state_dict(), tmp_path / "weights.pth")
    create, overlay = timm.create_model, {"file": str(tmp_path / "weights.pth")}

    def from_file(name, pretrained=False, **options):
        return create(name, pretrained=pretrained, pretrained_cfg_overlay=overlay, **options)

    monkeypatch.setattr(timm, "create_model", from_file)
    network = build_network(node("test_resnet", "DEFAULT"), SHAPE)
    assert str(network.published).endswith(", fc freshly initialised")
    heads = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        start(network, None)
        heads.append(network.fc.weight.clone())
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])
    for name, value in network.state_dict().items():
        if not name.startswith(("fc.", "conv1.0")):
            assert torch.equal(value, reference.state_dict()[name]), name


def test_a_failed_download_of_weights_is_one_sentence(monkeypatch):
    network = build_network(node("test_resnet", "DEFAULT"), SHAPE)

    def fail(*args, **options):
        raise ConnectionError("no route")

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(DataUnavailable, match=r"^the published weights of timm's test_resnet can't be read \(no route\); "):
        network.published.fetch()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "dimensions"), [("test_vit", 64), ("test_resnet", 96), ("vit_tiny_patch16_dinov3_qkvb", 192)])
def test_a_backbone_of_timm_teaches_features_to_a_convolutional_student(tmp_path, name, dimensions):
    torch.manual_seed(0)
    with torch.device("meta"):
        shapes = (
            timm.create_model(name, num_classes=0, img_size=32) if "vit" in name else timm.create_model(name, num_classes=0)
        )
    torch.save({key: torch.zeros(value.shape) for key, value in shapes.state_dict().items()}, tmp_path / "backbone.pt")
    words = [f"teacher.name={name}", f"teacher.checkpoint={tmp_path / 'backbone.pt'}", "teacher.head=none"]
    assert complaints(*words, "student.name=test_resnet", "distillation=feature_cosine") == []
    teacher = on_meta(node(name) | {"head": "none"}, Shape(4, 3, 32))
    method = build(compose_command(["distillation=feature_cosine"]).distillation)
    sketch_method(method, on_meta(node("test_resnet"), Shape(4, 3, 32)), teacher, torch.arange(4), 4, Shape(4, 3, 32))
    assert method.projector.out_features == dimensions
    assert not any(key.startswith(("head.", "fc.")) for key in teacher.state_dict())
