"""Weights of one network in a file with several, and layers that are not taken from it."""

import pytest
import torch
from experiments import compose_command
from own_networks import NormNet
from torch import nn

from kdexp.errors import BadCheckpoint
from kdexp.experiment.starts import start_notes
from kdexp.models.resnet_cifar import ResNet
from kdexp.network.checkpoint.fit import start_from
from kdexp.training.prepare import prepare
from kdexp.validation.validator import validate

NORM = ("student._target_=own_networks.NormNet", "~student.hidden")
QUERY = "student.checkpoint_prefix=module.encoder_q."


def net(classes=10):
    return NormNet(num_classes=classes, in_channels=1, image_size=8)


def random_weights(network, seed):
    draw = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(value.shape, generator=draw) if value.is_floating_point() else value
        for name, value in network.state_dict().items()
    }


def contrastive(seed, project=nn.Linear):
    """Returns an encoder's weights with a projection in place of its classifier, as methods without labels train it."""
    network = net()
    network.head = nn.Sequential(project(8, 8), nn.ReLU(), project(8, 4))
    return random_weights(network, seed)


@pytest.fixture
def moco(tmp_path):
    """A file with two encoders, a memory and an optimizer's state, as MoCo and PCL write it."""
    encoders = {
        f"module.encoder_{part}.{name}": value for seed, part in enumerate("qk") for name, value in contrastive(seed).items()
    }
    path = tmp_path / "moco.pth"
    optimizer = {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.03}]}
    torch.save({"epoch": 200, "state_dict": encoders | {"module.queue": torch.zeros(4, 16)}, "optimizer": optimizer}, path)
    return path


def body(weights):
    return {name: value for name, value in weights.items() if name.startswith("body.")}


@pytest.mark.parametrize("prefix", ["module.encoder_k.", "module.encoder_k", "state_dict.module.encoder_k."])
def test_the_encoder_under_a_prefix_is_taken_and_its_projection_is_not(moco, prefix):
    model = net()
    before = model.head.weight.clone()
    start = start_from(model, moco, partly=True, prefix=prefix, fresh=["head"])
    expected = body(contrastive(1))
    assert all(torch.equal(value, expected[name]) for name, value in body(model.state_dict()).items())
    assert torch.equal(model.head.weight, before) and start.fresh == ("head",)
    assert start.sentences()[-1].endswith("classifier head freshly initialised (not taken from the file)")


def test_without_a_prefix_two_encoders_are_refused_with_one_to_choose(moco):
    with pytest.raises(
        BadCheckpoint, match=r"encoder_k'; student\.checkpoint_prefix=state_dict\.module\.encoder_q\. takes the"
    ):
        start_from(net(), moco, role="student", partly=True)


def test_a_fresh_layer_is_not_taken_although_it_fits(tmp_path):
    weights, model = random_weights(net(), 3), net()
    torch.save(weights, tmp_path / "net.pt")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    start = start_from(model, tmp_path / "net.pt", fresh=["body.1", "head"])
    kept = {name for name, value in model.state_dict().items() if torch.equal(value, before[name])}
    assert kept == {name for name in before if name.startswith(("body.1.", "head."))}
    assert start.sentences()[-1].endswith("classifier head freshly initialised (not taken from the file), body.1 freshly "
                                          "initialised (not taken from the file)")  # fmt: skip


def test_a_layer_under_another_codes_name_is_left_out_by_our_name(tmp_path):
    model = ResNet(num_classes=3, in_channels=1, image_size=8, depth=8, widths=[4, 4, 4, 4])
    theirs = {"stem.0": "conv1", "stem.1": "bn1", "classifier": "fc.0"}
    weights = {}
    for name, value in random_weights(model, 0).items():
        module, _, kind = name.rpartition(".")
        block = module.replace("residual.0", "conv1").replace("residual.1", "bn1").replace("residual.3", "conv2")
        block = block.replace("residual.4", "bn2").replace("shortcut", "downsample")
        for number in (2, 1, 0):
            block = block.replace(f"stages.{number}", f"layer{number + 1}")
        weights[f"encoder.{theirs.get(module, block)}.{kind}"] = value
    torch.save(weights | {"encoder.fc.2.weight": torch.zeros(2, 2)}, tmp_path / "crd.pt")
    start = start_from(model, tmp_path / "crd.pt", prefix="encoder", fresh=["classifier"])
    assert start.fresh == ("classifier",)
    assert torch.equal(model.stem[0].weight, weights["encoder.conv1.weight"])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["student.checkpoint_prefix=module.encoder_x."],
         "student.checkpoint_prefix: no tensor's name begins with 'module.encoder_x.'; did you mean "
         "state_dict.module.encoder_q.? prefixes in the file: state_dict.module.encoder_q., state_dict.module.encoder_k."),
        (["student.checkpoint_prefix=module"],
         "student.checkpoint_prefix: several networks' tensors begin with 'module.'; choose one: "
         "state_dict.module.encoder_q., state_dict.module.encoder_k."),
        ([QUERY, "student.checkpoint_fresh=[haed]"],
         "student.checkpoint_fresh: NormNet has no layer 'haed'; did you mean head? known: body, body.0, body.1, body.2, head"),
        ([QUERY, "student.checkpoint_fresh=[body.2]"], "student.checkpoint_fresh: body.2 of NormNet has no weights to"),
        ([QUERY, "student.checkpoint_fresh=[head.input]"], "student.checkpoint_fresh: head.input of NormNet has no weights to"),
        ([QUERY, "student.checkpoint_fresh=[head,body]"], "student.checkpoint_fresh: all layers of NormNet would be freshly"),
        ([QUERY, "student.checkpoint_fresh=head"], "student.checkpoint_fresh='head': must be a list, written [head]"),
        (["student.checkpoint_prefix=."], "student.checkpoint_prefix='.': must be the beginning of names"),
        ([QUERY, "student.checkpoint=null"],
         "student.checkpoint_prefix='module.encoder_q.': says what is taken of a file of weights; add student.checkpoint=FILE"),
        ([QUERY, "student.checkpoint_fresh=[body.1]", "student.frozen_backbone=true"],
         "student.frozen_backbone=True: body.1 is freshly initialised and would stay untrained"),
    ],
)  # fmt: skip
def test_mistakes_are_refused_with_what_there_is(moco, words, sentence):
    found = [str(problem) for problem in validate(compose_command([*NORM, f"student.checkpoint={moco}", *words]))]
    assert len(found) == 1 and sentence in found[0], found


def test_a_layer_that_differs_is_refused_with_the_key_that_leaves_it_out(tmp_path):
    weights = random_weights(net(), 0)
    del weights["body.1.running_mean"]
    torch.save(weights, tmp_path / "net.pt")
    with pytest.raises(BadCheckpoint, match=r"'student\.checkpoint_fresh=\[body\.1\]' takes the rest$"):
        start_from(net(), tmp_path / "net.pt", role="student", partly=True)
    start_from(net(), tmp_path / "net.pt", role="student", partly=True, fresh=["body.1"])


def test_students_start_from_the_part_that_their_key_covers(make_experiment, moco):
    words = [*NORM, f"student.checkpoint={moco}", "student.checkpoint_fresh=[head]"]
    query, key = make_experiment(*words, QUERY), make_experiment(*words, QUERY.replace("_q.", "_k"))
    for seed, experiment in enumerate((query, key)):
        assert not validate(experiment.config)
        (learner,), _ = prepare([experiment.entry("baseline")], None, experiment.shape, experiment.precision, torch.arange(10))
        assert torch.equal(learner.model.body[0].weight, contrastive(seed)["body.0.weight"])
    assert query.spec("baseline").key != key.spec("baseline").key
    assert key.spec("baseline").model["checkpoint_prefix"] == "module.encoder_k."
    assert "checkpoint_fresh" not in make_experiment(*words[:-1], QUERY).spec("baseline").model
    assert "'module.encoder_q.' dropped from the names, all others left out" in start_notes(query)[0]


def test_keys_that_say_nothing_are_no_part_of_a_spec(make_experiment):
    spec = make_experiment().spec("baseline")
    assert not {"checkpoint_prefix", "checkpoint_fresh"} & spec.model.keys()


def test_a_teacher_may_go_without_its_classifier_alone(tmp_path):
    torch.save(random_weights(net(), 0), tmp_path / "net.pt")
    teacher = ["teacher._target_=own_networks.NormNet", "~teacher.hidden", f"teacher.checkpoint={tmp_path / 'net.pt'}"]
    layers = ["distillation=hint", "distillation.student_layers=[classifier.input]", "distillation.teacher_layers=[head.input]"]

    def problems(*words):
        return [str(problem) for problem in validate(compose_command([*teacher, *words]))]

    assert problems(*layers, "teacher.checkpoint_fresh=[head]") == []
    (found,) = problems("teacher.checkpoint_fresh=[head]")
    assert "(not taken from the file), and kd reads the teacher's logits" in found
    (found,) = problems(*layers, "teacher.checkpoint_fresh=[body.1]")
    assert found.startswith("teacher.checkpoint_fresh: body.1 would stay untrained") and "(head)" in found
