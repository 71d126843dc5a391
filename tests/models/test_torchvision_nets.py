import hashlib
import pickle
import re

import pytest
import torch
from experiments import COMPOSER
from own_networks import NormNet
from squares import SQUARES
from torch import nn
from torchvision import models
from torchvision.models.vision_transformer import VisionTransformer

import kdexp
from kdexp.commands.run import run
from kdexp.data.shape import Shape
from kdexp.errors import DataUnavailable
from kdexp.experiment.obtain import obtain
from kdexp.models import torchvision_weights
from kdexp.models.torchvision_nets import torchvision_net
from kdexp.models.torchvision_weights import TorchvisionWeights
from kdexp.network.build import build_network, device_of, on_meta, sketch_network, start
from kdexp.network.capture import Capture
from kdexp.network.cost import parameter_count
from kdexp.validation.validator import Validator

SMALL = ["resnet18", "mobilenet_v3_small", "efficientnet_b0", "densenet121", "shufflenet_v2_x0_5", "squeezenet1_1"]
LARGE = ["vgg11_bn", "convnext_tiny", "vit_b_32", "swin_t"]
OTHERS = ["alexnet", "googlenet", "inception_v3", "mnasnet0_5", "regnet_y_400mf", "swin_v2_t"]
TEN = SMALL + LARGE
OTHER_TEN = [name for name in TEN if name != "shufflenet_v2_x0_5"]
SHAPE = Shape(num_classes=4, in_channels=3, image_size=32)


VALIDATOR = Validator()
"""One for all tests, so that each network is checked once."""


def node(name, stem="default", weights=None):
    target = "kdexp.models.torchvision_nets.torchvision_net"
    return {"_target_": target, "name": name, "weights": weights, "stem": stem}


def pair(teacher, student):
    return ["teacher=torchvision", f"teacher.name={teacher}", "student=torchvision", f"student.name={student}"]


def complaints(*overrides):
    return [str(problem) for problem in VALIDATOR.problems(COMPOSER.compose([*SQUARES, *overrides]))]


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", TEN)
def test_a_family_works_for_any_number_of_classes_and_channels(name, channels):
    shape = Shape(num_classes=7, in_channels=channels, image_size=32)
    network = on_meta(node(name), shape)
    assert network(shape.probe("meta")).shape == (2, 7)
    assert type(network).__module__.startswith("torchvision.")


@pytest.mark.slow
@pytest.mark.parametrize("name", [*TEN, "regnet_y_400mf"])
def test_a_thousand_classes_have_the_published_number_of_parameters(name):
    network = sketch_network(node(name), Shape(1000, 3, 224))
    assert parameter_count(network) == models.get_model_weights(name).DEFAULT.meta["num_params"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_there_are_no_auxiliary_classifiers(name):
    network = on_meta(node(name, stem="small"), SHAPE).train()
    assert isinstance(network(SHAPE.probe("meta")), torch.Tensor)
    assert not [path for path, _ in network.named_modules() if path.lower().startswith("aux")]


def map_sizes(name, stem):
    network = sketch_network(node(name, stem), SHAPE)
    landmarks = network.landmarks
    with torch.device(device_of(network)):
        features = Capture(network, [*landmarks.stages, landmarks.last_map], SHAPE.probe(device_of(network))).probe.features
    return [features[layer].shape[2] for layer in landmarks.stages] or features[landmarks.last_map].shape[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "default", "small"),
    [
        ("resnet18", [16, 8, 4, 2, 1], [32, 16, 8, 4]),
        ("densenet121", [16, 8, 4, 2, 1], [32, 16, 8, 4]),
        ("mobilenet_v3_small", [16, 8, 4, 2, 1], [32, 16, 8, 4, 2]),
        ("efficientnet_b0", [16, 8, 4, 2, 1], [32, 16, 8, 4, 2]),
        ("mnasnet0_5", [16, 8, 4, 2, 1], [32, 16, 8, 4, 2]),
        ("regnet_y_400mf", [16, 8, 4, 2, 1], [32, 16, 8, 4, 2]),
        ("shufflenet_v2_x0_5", [16, 8, 4, 2, 1], [32, 16, 8, 4]),
        ("googlenet", [16, 8, 4, 2, 1], [32, 16, 8, 4]),
        ("convnext_tiny", [8, 4, 2, 1], [16, 8, 4, 2]),
        ("swin_t", [8, 4, 2, 1], [16, 8, 4, 2]),
        ("vit_b_32", 1 + 1, 1 + 64),
    ],
)
def test_the_small_stem_keeps_the_resolution_of_small_images(name, default, small):
    assert map_sizes(name, "default") == default
    assert map_sizes(name, "small") == small


@pytest.mark.parametrize("name", ["alexnet", "squeezenet1_0", "inception_v3"])
def test_the_small_stem_takes_images_of_32_pixels(name):
    assert sketch_network(node(name, "small"), SHAPE)(SHAPE.probe("meta")).shape == (2, 4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["shufflenet_v2_x0_5", *(pytest.param(name, marks=pytest.mark.exhaustive) for name in OTHER_TEN)]
)
def test_a_family_teaches_and_learns_logits_and_features(make_experiment, name):
    # One epoch with SGD: what a large net leaves behind after an epoch takes longer to write than its step.
    brief = (
        "limit_batches=1",
        "batch_size=8",
        "epochs=1",
        "teacher_epochs=1",
        "optimizer=sgd",
        "optimizer.lr=1e-4",
        "teacher_optimizer.lr=1e-4",
    )
    experiment = make_experiment(*SQUARES, *pair(name, name), "distillation=hint", "distillation.kd_weight=1", *brief)
    assert VALIDATOR.problems(COMPOSER.compose([*SQUARES, *pair(name, name), "distillation=hint"])) == []
    entries = obtain(experiment)
    assert [entry.role for entry in entries] == ["teacher", "baseline", "distilled"]
    assert all(entry.stored and not entry.failure for entry in entries)
    assert {entry.model for entry in entries} == {name}


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", models.list_models(module=models, exclude=["regnet*gf", "vit_h*"]))
def test_every_classifier_of_torchvision_runs_and_has_landmarks(name):
    shape = Shape(num_classes=4, in_channels=1, image_size=224)
    network = sketch_network(node(name), shape)
    assert network(shape.probe(device_of(network))).shape == (2, 4)
    assert network.landmarks.classifier and network.landmarks.last_map


REFUSALS = [
    (["student.name=resnet19"], "student.name='resnet19': no such classifier in torchvision; did you mean resnet18? close: "),
    (["student.name=nothing"], "student.name='nothing': no such classifier in torchvision; families: alexnet, convnext, "),
    (
        ["student.name=fcn_resnet50"],
        "student.name='fcn_resnet50': belongs to torchvision.models.segmentation and is no image classifier",
    ),
    (["student.weights=V1"], "student.weights='V1': resnet18 has IMAGENET1K_V1, DEFAULT (or null)"),
    (["student.stem=tiny"], "student.stem='tiny': must be one of default, small"),
    (["student.name=null"], "student.name=None: must be a text"),
    (["student.name=vgg11", "student.stem=small"], "student.stem='small': vgg11 already starts at full resolution"),
    (["student.name=alexnet"], "student: alexnet needs images of at least 63×63, not 32×32; "),
    (["teacher.name=inception_v3"], "teacher: inception_v3 needs images of at least 75×75, not 32×32; "),
    (["student.name=alexnet"], "dataset.image_size=63 or student.stem=small"),
    (["student.name=maxvit_t"], "student.name='maxvit_t': needs images whose size is a multiple of 224, not 32×32"),
    (["student.name=maxvit_t", "student.stem=small"], "student.stem='small': there is none for maxvit_t"),
    (["student.name=vit_h_14"], "'vit_h_14': cuts images into patches of 14, of which 32 is no multiple; stem=small cuts"),
    (
        ["student.name=mobilenet_v3_small", "student.stem=small", "distillation=hint"],
        "distillation: hint compares maps of one size, not 576×2×2 (student) with 512×1×1 (teacher)",
    ),
    (
        ["student.name=mobilenet_v3_small", "distillation=cosine"],
        "512 (teacher) is no multiple of 576 (student); choose other student_layers or teacher_layers",
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(("words", "sentence"), REFUSALS, ids=[" ".join(words) for words, _ in REFUSALS])
def test_refused_with_a_sentence(words, sentence):
    (found,) = complaints("teacher=torchvision", "student=torchvision", *words)
    assert sentence in found


def test_a_last_batch_of_one_image_is_refused_before_anything_is_written(tmp_path):
    overrides = [*SQUARES, *pair("shufflenet_v2_x0_5", "shufflenet_v2_x0_5"), "dataset.images=9", f"output_dir={tmp_path}"]
    with pytest.raises(DataUnavailable, match=r"^teacher: the last batch has a single image \(of 9\), .*; batch_size=5 avoids"):
        run(COMPOSER.compose(overrides))
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize("able", ["limit_batches=2", "batch_size=5"])
def test_a_batch_size_that_leaves_no_single_image_is_accepted(make_experiment, able):
    nets = pair("shufflenet_v2_x0_5", "shufflenet_v2_x0_5")
    make_experiment(*SQUARES, *nets, "dataset.images=9", "limit_batches=null", able).make_ready()


# Published weights, which here come from a file of our own under the name that its hash gives it.


@pytest.fixture
def publish(tmp_path, monkeypatch):
    """Makes torchvision's newest weights of a network point to a file; returns its path in torch's cache."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)

    def make(name, state, digest=None):
        source = tmp_path / "source.pth"
        if isinstance(state, bytes):
            source.write_bytes(state)
        else:
            torch.save(state, source)
        digest = digest or hashlib.sha256(source.read_bytes()).hexdigest()[:8]
        published = source.rename(tmp_path / f"{name}-{digest}.pth")
        newest = models.get_model_weights(name).DEFAULT
        monkeypatch.setattr(type(newest), "url", property(lambda self: published.as_uri()))
        return cache / published.name

    return make


def drawn(name, **options):
    torch.manual_seed(5)
    return models.get_model(name, weights=None, **options).state_dict()


def started(name, shape=SHAPE, stem="default"):
    network = build_network(node(name, stem, "DEFAULT"), shape)
    fresh = {name: value.clone() for name, value in network.state_dict().items()}
    start(network, None)
    return network, fresh


def test_published_weights_are_downloaded_and_loaded_except_the_classifier(publish):
    state = drawn("shufflenet_v2_x0_5")
    file = publish("shufflenet_v2_x0_5", state)
    network, fresh = started("shufflenet_v2_x0_5")
    assert file.is_file()
    assert str(network.published) == "torchvision's shufflenet_v2_x0_5 IMAGENET1K_V1, fc freshly initialised"
    for name, value in network.state_dict().items():
        assert torch.equal(value, fresh[name] if name.startswith("fc.") else state[name]), name


def test_the_classifier_is_kept_for_as_many_classes(publish):
    state = drawn("shufflenet_v2_x0_5")
    publish("shufflenet_v2_x0_5", state)
    network, _ = started("shufflenet_v2_x0_5", Shape(1000, 3, 32))
    assert network.published.fresh == ()
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("stem", ["default", "small"])
def test_a_grey_image_gives_the_logits_of_equal_colour_channels(publish, stem):
    state = drawn("shufflenet_v2_x0_5")
    publish("shufflenet_v2_x0_5", state)
    network, _ = started("shufflenet_v2_x0_5", Shape(1000, 1, 32), stem)
    colour, _ = started("shufflenet_v2_x0_5", Shape(1000, 3, 32), stem)
    image = torch.randn(2, 1, 32, 32)
    torch.testing.assert_close(network.eval()(image), colour.eval()(image.expand(-1, 3, -1, -1)), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "channels", "stem", "fresh"),
    [
        ("resnet18", 3, "small", ("conv1", "fc")),
        ("resnet18", 1, "default", ("fc",)),
        ("resnet18", 4, "default", ("conv1", "fc")),
        ("mobilenet_v3_small", 3, "small", ("classifier.3",)),
        ("squeezenet1_1", 3, "default", ("classifier.1",)),
        ("swin_t", 3, "small", ("features.0.0", "head")),
        ("vit_b_32", 3, "small", ("conv_proj", "heads.head")),
    ],
)
def test_modules_that_do_not_fit_are_freshly_initialised_and_named(name, channels, stem, fresh):
    network = on_meta(node(name, stem, "DEFAULT"), Shape(4, channels, 32))
    assert network.published.fresh == fresh


@pytest.mark.slow
def test_the_run_says_where_it_starts_and_its_students_need_no_file_afterwards(publish, tmp_path, capsys):
    file = publish("shufflenet_v2_x0_5", drawn("shufflenet_v2_x0_5"))
    nets = pair("shufflenet_v2_x0_5", "shufflenet_v2_x0_5")
    command = [*SQUARES, *nets, "student.weights=DEFAULT", f"output_dir={tmp_path}", "teacher_epochs=1"]
    assert run(COMPOSER.compose(command))
    told = "distilled: starts from torchvision's shufflenet_v2_x0_5 IMAGENET1K_V1, fc freshly initialised"
    assert told in capsys.readouterr().out
    file.unlink()
    (tmp_path / file.name).unlink()
    (folder,) = (tmp_path / "runs").iterdir()
    assert kdexp.load(folder)(torch.rand(1, 3, 32, 32)).shape == (1, 4)
    assert run(COMPOSER.compose(command))  # everything is in the store


def test_validation_downloads_nothing(monkeypatch):
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *a, **k: pytest.fail("downloaded"))
    assert complaints(*pair("resnet18", "resnet18"), "student.weights=DEFAULT", "teacher.weights=DEFAULT") == []


def test_a_failed_download_is_one_sentence(publish, tmp_path):
    file = publish("shufflenet_v2_x0_5", {})
    (tmp_path / file.name).unlink()
    with pytest.raises(DataUnavailable) as refusal:
        build_network(node("shufflenet_v2_x0_5", weights="DEFAULT"), SHAPE).published.fetch()
    assert re.fullmatch(
        r"the weights IMAGENET1K_V1 of shufflenet_v2_x0_5 can't be downloaded \(.*No such file.*\); "
        rf"put {file.name} into {file.parent}, or set weights=null",
        str(refusal.value),
    )


@pytest.mark.parametrize("cached", [True, False])
def test_a_file_with_another_hash_is_refused(publish, tmp_path, cached):
    file = publish("shufflenet_v2_x0_5", {}, digest="01234567")
    if cached:
        (tmp_path / file.name).rename(file)
    with pytest.raises(DataUnavailable, match=r"SHA-256 does not start with 01234567; delete it"):
        build_network(node("shufflenet_v2_x0_5", weights="DEFAULT"), SHAPE).published.fetch()


def test_weights_execute_no_code(publish, tmp_path):
    class Mischief:
        def __reduce__(self):
            return exec, (f"open({str(tmp_path / 'executed')!r}, 'w')",)

    publish("shufflenet_v2_x0_5", pickle.dumps({"conv1.0.weight": Mischief()}, protocol=2))
    with pytest.raises(DataUnavailable, match="loading it would run code"):
        build_network(node("shufflenet_v2_x0_5", weights="DEFAULT"), SHAPE).published.fetch()
    assert not (tmp_path / "executed").exists()


def test_a_checkpoint_and_published_weights_exclude_each_other(tmp_path):
    torch.save({}, tmp_path / "mine.pt")
    found = complaints(*pair("resnet18", "resnet18"), "student.weights=DEFAULT", f"student.checkpoint={tmp_path / 'mine.pt'}")
    assert found == [f"student.checkpoint='{tmp_path / 'mine.pt'}': student.weights is another start; set one of them to null"]


@pytest.mark.slow
def test_a_checkpoint_of_a_hundred_classes_is_refused_with_both_numbers(tmp_path):
    torch.save(torchvision_net(num_classes=100, in_channels=3, image_size=32, **LIGHT).state_dict(), tmp_path / "c100.pt")
    nets = pair("shufflenet_v2_x0_5", "shufflenet_v2_x0_5")
    (found,) = complaints(*nets, f"teacher.checkpoint={tmp_path / 'c100.pt'}")
    assert "its classifier does not fit the data (file: 100 classes, data: 4), and kd reads the teacher's logits" in found


LIGHT = {"name": "shufflenet_v2_x0_5", "weights": None, "stem": "default"}


@pytest.mark.parametrize("name", ["mnasnet0_5", "regnet_y_400mf", "googlenet"])
def test_a_network_reloads_its_weights_from_a_plain_mapping(name):
    network = build_network(node(name), SHAPE)
    network.load_state_dict(dict(network.state_dict()))


def transformer(image_size, classes):
    torch.manual_seed(image_size)
    return VisionTransformer(image_size, 8, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=8, num_classes=classes)


def test_a_transformers_positions_are_interpolated_to_another_image_size(publish):
    large, small = transformer(64, 4), transformer(32, 4)
    publish("vit_b_32", large.state_dict())
    TorchvisionWeights("vit_b_32", models.ViT_B_32_Weights.DEFAULT, ("heads.head",)).load(small)
    ours, theirs = small.encoder.pos_embedding, large.encoder.pos_embedding
    assert torch.equal(ours[:, 0], theirs[:, 0])
    assert ours[0, 1].tolist() == pytest.approx(theirs[0, 1].tolist(), abs=1e-5)  # the corner stays the corner
    assert ours[0, -1].tolist() == pytest.approx(theirs[0, -1].tolist(), abs=1e-5)


def test_weights_of_another_architecture_are_refused(publish):
    publish("vit_b_32", transformer(32, 4).state_dict())
    with pytest.raises(ValueError, match=r"does not fit NormNet: .* first body\.0\.weight"):
        network = NormNet(num_classes=4, in_channels=3, image_size=32)
        network.image_size, network.patch_size = 32, 8
        TorchvisionWeights("vit_b_32", models.ViT_B_32_Weights.DEFAULT, ("head",)).load(network)


@pytest.mark.slow
def test_names_in_old_densenet_files_are_updated():
    old = {"features.denseblock1.denselayer2.norm.1.weight": 0, "features.denseblock1.denselayer2.conv.2.weight": 1}
    new = torchvision_weights._current_names(old)
    assert set(new) < set(models.densenet121(weights=None).state_dict())
    assert isinstance(models.densenet121(weights=None).features.denseblock1.denselayer2.conv2, nn.Conv2d)
