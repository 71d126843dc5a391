"""SimKD: what it trains and deploys, and how the deployed network is counted, loaded and exported."""

import copy
import io
import json

import pytest
import torch
from each_method import PAIR
from experiments import COMPOSER, SHORT, compose_command
from exported import opened
from loops import prepared
from loss_bench import LAYERS, START, WEIGHTS, batch_of, probe, random
from own_networks import NormNet
from rich.console import Console
from torch import nn

import kdexp
from kdexp.commands.export import main
from kdexp.commands.run import run
from kdexp.configuration.nodes import build
from kdexp.data.shape import Shape
from kdexp.deployment.formats import FORMATS
from kdexp.distillation.simkd import PROJECTED, SimKD, projector
from kdexp.experiment.obtain import obtain
from kdexp.network.build import on_meta, with_values
from kdexp.network.capture import Capture, Outputs
from kdexp.network.cost import parameter_count
from kdexp.network.landmarks import Landmarks
from kdexp.store.learners import LearnerStore
from kdexp.validation.validator import validate

SIMKD = (*PAIR, "distillation=simkd")


class Net(NormNet):
    """A network whose classifier reads its pooled last map."""

    def __init__(self, width):
        super().__init__(num_classes=3, in_channels=1, image_size=8, width=width)


def simkd(student, teacher, image, **changed):
    """Returns the method, set up for two networks, and their outputs for an image."""
    named = {"weight": 1.0, "student_layers": None, "teacher_layers": None, "factor": 2}
    made = SimKD(**WEIGHTS | named | changed)
    teacher.eval().requires_grad_(False)
    layers = made.layers(student, teacher)
    captures = [Capture(net, names, image) for net, names in zip((student, teacher), layers, strict=True)]
    with torch.no_grad():
        taught = captures[1](image)
    made.setup(probe(captures[0].probe, captures[1].probe, classify=teacher.head))
    return made, captures[0], taught


def image_of(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("ours", "theirs", "count"),
    [(256, 256, 214_016), (512, 256, 246_784), (464, 256, 240_640), (64, 128, 49_664), (256, 128, 61_952)],
)
def test_projectors_have_the_published_number_of_parameters(ours, theirs, count):
    made = projector(torch.zeros(1, ours, 8, 8), torch.zeros(1, theirs, 8, 8), 2)
    assert parameter_count(made) == count
    kinds = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU] * 3
    assert [type(layer) for layer in made] == kinds and all(layer.bias is None for layer in made[::3])
    assert [layer.kernel_size[0] for layer in made[::3]] == [1, 3, 1] and made[3].in_channels == theirs // 2


@pytest.mark.parametrize(("size", "pooled"), [(8, [8, 8]), (16, [8, 8]), (4, [4, 4])])
def test_the_larger_map_is_pooled_and_the_students_before_projection(size, pooled):
    made = projector(torch.zeros(1, 6, size, size), torch.zeros(1, 4, 8, 8), 2)
    assert isinstance(made[0], nn.AdaptiveAvgPool2d) == (size == 16)
    assert list(made(torch.randn(2, 6, size, size)).shape) == [2, 4, *pooled]


def test_a_student_with_the_teachers_map_predicts_like_the_teacher():
    teacher, image = Net(5), image_of(4, 1, 8, 8)
    for parameter in teacher.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    student = copy.deepcopy(teacher)
    student.head = nn.Linear(5, 3)
    made, capture, taught = simkd(student, teacher, image)
    made.projector = nn.Identity()
    student.eval()
    with torch.no_grad():
        assert torch.equal(made.answer(capture(image)).logits, teacher(image))
        assert torch.equal(made.deployed(student, teacher)(image), teacher(image))
        assert float(made.transfer(batch_of([0] * 4), made.answer(capture(image)), taught, START)["simkd"]) == 0.0


def test_the_loss_is_the_mean_squared_error_of_the_maps():
    image = image_of(2, 1, 8, 8)
    made, capture, taught = simkd(Net(4), Net(6), image)
    ours = made.answer(capture(image))
    projected, theirs = ours.features[PROJECTED].detach().flatten().tolist(), taught.features["body"].flatten().tolist()
    expected = sum((a - b) ** 2 for a, b in zip(projected, theirs, strict=True)) / len(theirs)
    terms = made.losses(batch_of([0, 1]), ours, taught, START)
    assert list(terms) == ["simkd"] and float(terms["simkd"].detach()) == pytest.approx(expected, rel=1e-5)


def test_a_larger_teacher_map_is_averaged():
    made = SimKD(**WEIGHTS | LAYERS | {"factor": 2})
    made._pairs = [("ours", "theirs")]
    theirs = random(2, 3, 8, 8)
    small = theirs.unflatten(2, (4, 2)).unflatten(4, (4, 2)).mean((3, 5))
    student = Outputs(torch.zeros(2, 3), {"ours": theirs, PROJECTED: small + 1})
    assert float(made.transfer(batch_of([0, 0]), student, Outputs(torch.zeros(2, 3), {"theirs": theirs}), START)["simkd"]) == (
        pytest.approx(1.0)
    )


def test_labels_and_soft_targets_use_the_exchanged_classifiers_logits():
    image = image_of(3, 1, 8, 8)
    made, capture, taught = simkd(Net(4), Net(6), image, ce_weight=1.0, kd_weight=1.0)
    answer = made.answer(capture(image))
    terms = made.losses(batch_of([0, 1, 2]), answer, taught, START)
    assert list(terms) == ["ce", "kd", "simkd"]
    torch.testing.assert_close(terms["ce"], nn.functional.cross_entropy(answer.logits, torch.tensor([0, 1, 2])))
    assert not torch.allclose(answer.logits, capture(image).logits)


def test_the_student_and_the_projector_are_trained_but_neither_classifier():
    student, teacher, image = Net(4), Net(6), image_of(3, 1, 8, 8)
    made, capture, taught = simkd(student, teacher, image)
    made.transfer(batch_of([0] * 3), made.answer(capture(image)), taught, START)["simkd"].backward()
    learnt = [*student.body.parameters(), *made.projector.parameters()]
    assert all(parameter.grad is not None for parameter in learnt) and sum(p.grad.abs().sum() > 0 for p in learnt) > 8
    assert student.head.weight.grad is None and teacher.head.weight.grad is None
    assert {name.partition(".")[0] for name in made.state_dict()} == {"projector"}


def test_logits_are_fp32_under_bf16():
    image = image_of(3, 1, 8, 8)
    made, capture, _ = simkd(Net(4), Net(6), image)
    with torch.autocast("cpu", torch.bfloat16):
        answer = made.answer(capture(image))
    assert answer.logits.dtype == answer.features[PROJECTED].dtype == torch.float32


def test_a_single_image_is_projected_as_in_evaluation():
    made, capture, _ = simkd(Net(4), Net(6), image_of(3, 1, 8, 8))
    alone = capture(image_of(1, 1, 8, 8))
    assert torch.equal(made.answer(alone).logits, made.eval().answer(alone).logits)
    assert made.train().answer(capture(image_of(3, 1, 8, 8))).logits.shape == (3, 3) and made.projector[1].training


def test_the_deployed_network_shares_parameters_and_has_landmarks():
    student, teacher, image = Net(4), Net(6), image_of(2, 1, 8, 8)
    made, _, _ = simkd(student, teacher, image)
    whole = made.deployed(student, teacher)
    assert whole.head is teacher.head and whole.body[0] is student.body and whole.body[1] is made.projector
    assert not whole.head.weight.requires_grad and student.head is not teacher.head
    assert parameter_count(whole) == sum(map(parameter_count, (student.body, made.projector, teacher.head)))
    assert whole.landmarks == Landmarks("head", "body") and student.landmarks is NormNet.landmarks
    assert Capture(whole, ["body", "head.input"], image).probe.features["body"].shape == (2, 6, 8, 8)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("teacher", "student", "words", "backbone"),
    [
        ("resnet32x4", "resnet8x4", (), ("stem", "stages")),
        ("resnet32x4", "mobilenetv2", (), ("stem", "stages")),
        ("mobilenetv2", "shufflenetv2", ("distillation.teacher_layers=[head]",), ("stem", "stages")),
        ("resnet32x4", "mobilenetv2", ("distillation.student_layers=[head]",), ("stem", "stages", "head")),
        ("wrn_40_2", "vgg8", (), ("stem", "stages")),
    ],
)
def test_backbone_projector_and_the_teachers_classifier_are_counted(teacher, student, words, backbone):
    command = ["dataset=cifar100", f"teacher={teacher}", f"student={student}", "distillation=simkd", *words]
    config, shape = compose_command(command), Shape(100, 3, 32)
    ours, theirs = (on_meta(config[role], shape) for role in ("student", "teacher"))
    made = build(config.distillation)
    layers = made.layers(ours, theirs)
    both = [Capture(net, names, shape.probe("meta")).probe for net, names in zip((ours, theirs), layers, strict=True)]
    with torch.device("meta"):
        made.setup(probe(*both, classify=theirs.classifier))
    whole = made.deployed(ours, theirs)
    parts = [getattr(ours, name) for name in backbone] + [made.projector, theirs.classifier]
    assert parameter_count(whole) == sum(map(parameter_count, parts))
    assert whole(shape.probe("meta")).shape == (2, 100)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder and the output of a short run, read by all tests and changed by none."""
    folder, printed = tmp_path_factory.mktemp("finished"), io.StringIO()
    words = [f"output_dir={folder}", *SHORT, *SIMKD, "limit_batches=8", "diagnosis=always", "epochs=4"]
    assert run(COMPOSER.compose(words), console=Console(file=printed, width=80))
    return next((folder / "runs").iterdir()), printed.getvalue()


def stored(folder):
    """The distilled learner of a run: its entry in the store."""
    row = json.loads((folder / "table.json").read_text())["rows"][-1]
    return LearnerStore(folder.parent.parent / "store").find(row["key"]), row


@pytest.mark.slow
def test_the_table_counts_the_deployed_parameters(finished):
    entry, row = stored(finished[0])
    shape = Shape(10, 1, 8)
    config = compose_command(list(SIMKD))
    student, teacher = (on_meta(config[role], shape) for role in ("student", "teacher"))
    made = projector(torch.zeros(1, 8, 2, 2), torch.zeros(1, 16, 2, 2), 2)
    expected = parameter_count(student) - parameter_count(student.classifier)
    expected += parameter_count(made) + parameter_count(teacher.classifier)
    assert entry.result["parameters"] == row["parameters"] == expected
    assert entry.result["training_only_parameters"] == 0
    assert entry.result["method"] == "SimKD"


@pytest.mark.slow
@pytest.mark.parametrize("epoch", ["last", "best"])
def test_a_loaded_student_has_the_logits_of_the_trained_one(finished, make_experiment, epoch):
    entry, _ = stored(finished[0])
    test = make_experiment(*SIMKD).data.test
    network = kdexp.load(finished[0], epoch=epoch).network
    with torch.no_grad():
        logits = torch.cat([network(image) for image in test.in_order(500)])
    torch.testing.assert_close(logits, entry.tensors("logits")[epoch], rtol=0, atol=1e-5)
    assert float((logits.argmax(1) == test.labels).float().mean()) == pytest.approx(entry.result["test"][epoch]["top1"])


@pytest.mark.slow
@pytest.mark.parametrize(("epoch", "name"), [*(("last", name) for name in FORMATS), ("best", "torch_export")])
def test_an_exported_student_has_the_logits_of_the_trained_one(finished, tmp_path, make_experiment, capsys, name, epoch):
    if FORMATS[name].missing():
        pytest.skip(f"without the extra {name}")
    path = tmp_path / f"out{FORMATS[name].suffix}"
    words = [str(finished[0]), "--format", name, "--epoch", epoch, "--output", str(path)]
    if name == "safetensors":
        with pytest.raises(SystemExit) as stop:
            main(words)
        sentence = "it is made of several networks; use --format torch_export or onnx"
        assert stop.value.code == 1 and sentence in capsys.readouterr().err and not list(tmp_path.iterdir())
        return
    main(words)
    data, entry = make_experiment(*SIMKD).data, stored(finished[0])[0]
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (data.mean, data.std))
    images = next(data.test.in_order(64)) * std + mean
    torch.testing.assert_close(opened(name, path)(images), entry.tensors("logits")[epoch][:64], rtol=0, atol=1e-4)


@pytest.mark.slow
def test_the_two_epochs_differ_and_the_students_classifier_stays_untrained(finished, make_experiment):
    entry, _ = stored(finished[0])
    experiment = make_experiment(*SIMKD)
    (learner,), _ = prepared(experiment, "distilled")
    fresh, last = learner.state_dict(), entry.tensors("last")
    assert all(torch.equal(fresh[f"model.classifier.{part}"], last[f"model.classifier.{part}"]) for part in ("weight", "bias"))
    assert not torch.equal(fresh["model.stem.0.weight"], last["model.stem.0.weight"])
    assert not any(name.startswith("method.") and "classif" in name for name in last)


@pytest.mark.slow
def test_a_diagnosis_is_made(finished):
    told = json.loads((finished[0] / "diagnosis.json").read_text())["facts"]
    assert told["gradients_before"].keys() == {"simkd"} and told["gradients_before"]["simkd"] > 0
    assert told["temperature"] is None and told["parameter_ratio"] > 1
    assert "no diagnosis" not in finished[1]


@pytest.mark.slow
def test_the_training_accuracy_is_the_exchanged_classifiers(make_experiment):
    (learner,), teacher = prepared(make_experiment(*SIMKD), "distilled")
    image = learner.capture.probe.logits.new_zeros(2, 1, 8, 8)
    outputs = learner.forward(image)
    assert torch.equal(learner._logits, outputs.logits) and PROJECTED in outputs.features
    learner.eval()
    with torch.no_grad():
        torch.testing.assert_close(learner.deployed(image), learner.forward(image).logits)
    assert learner.deployed.classifier is teacher.model.classifier
    trained = {id(p) for group in learner.optimizer.param_groups for p in group["params"]}
    assert not trained & {id(p) for p in (*teacher.model.parameters(), *learner.model.classifier.parameters())}


@pytest.mark.slow
def test_control_rows_work_with_simkd(make_experiment):
    entries = obtain(make_experiment(*SIMKD, "controls=[self_teacher,random_teacher]", "epochs=1", "teacher_epochs=1"))
    assert len(entries) == 5 and all(entry.stored and not entry.failure for entry in entries)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["simkd", "srrl"])
def test_a_deployed_student_can_be_a_teacher(make_experiment, method):
    middle = ("teacher=resnet8", "teacher.widths=[4,4,6,8]", "student=resnet8", "student.widths=[4,4,4,4]")
    first = (
        "+teacher@teacher.teacher=resnet14",
        "teacher.teacher.widths=[4,4,8,16]",
        "+distillation@teacher.distillation=simkd",
    )
    experiment = make_experiment(*middle, *first, f"distillation={method}", "epochs=1", "teacher_epochs=1", "limit_batches=2")
    entry = obtain(experiment)[-1]
    assert entry.stored and not entry.failure
    last = {"simkd": "method.projector.6.weight", "srrl": "method.connect.0.weight"}[method]
    assert entry.stored.tensors("last")[last].shape[0] == 16
    network, test = kdexp.load(entry.stored.path).network, experiment.data.test
    with torch.no_grad():
        logits = torch.cat([network(image) for image in test.in_order(500)])
    torch.testing.assert_close(logits, entry.stored.tensors("logits")["last"], rtol=0, atol=1e-5)


@pytest.mark.slow
def test_cached_teacher_outputs_work_without_augmentation(make_experiment):
    entries = obtain(make_experiment(*SIMKD, "limit_batches=null", "epochs=1", "teacher_epochs=1"))
    assert all(entry.stored for entry in entries)


TORCHVISION = ["teacher=torchvision", "student=resnet8x4"]
REFUSALS = [
    (
        ["teacher=mobilenetv2"],
        "between stages.3 and the classifier of MobileNetV2 there is head: add 'distillation.teacher_layers=[head]'",
    ),
    (["teacher=deepnn"], "between features and the classifier of DeepNN there is classifier.0, classifier.1: "),
    (
        [*TORCHVISION, "teacher.name=convnext_tiny"],
        "between features and the classifier of ConvNeXt there is classifier.0: add ",
    ),
    (
        [*TORCHVISION, "teacher.name=densenet121"],
        "whose averages the teacher's linear classifier reads, and 1024×1×1 (teacher) is none",
    ),
    ([*TORCHVISION, "teacher.name=squeezenet1_1"], "linear classifier reads, and 512×1×1 (teacher) is none; choose other"),
    (["distillation.teacher_layers=[stages.1]"], "linear classifier reads, and 128×16×16 (teacher) is none; choose other"),
    (["distillation.teacher_layers=[stages.2.4.relu.input]"], "linear classifier reads, and 256×8×8 (teacher) is none"),
    (["distillation.teacher_layers=[classifier.input]"], "simkd projects maps, not 256×8×8 (student) to 256 (teacher)"),
    (["teacher=mlp_wide", "student=mlp_small"], "simkd projects maps, not 64 (student) to "),
    (["distillation.student_layers=[stages.2.input]"], "which student_layers=['stages.2.input'] must name, without .input"),
    (
        ["distillation.student_layers=[stages.2.0.residual]"],
        "gives other logits than the one that it trains; choose other student_layers",
    ),
    (["distillation.student_layers=[stages.1]"], "the network that it deploys does not run: "),
    (["student=lightnn"], "the network that it deploys does not run: "),
    (["distillation.factor=0"], "distillation.factor=0: must be at least 1"),
    (
        ["distillation.student_layers=[stages.1,stages.2]", "distillation.teacher_layers=[stages.1,stages.2]"],
        "this method compares one pair of layers: student_layers and teacher_layers name 2",
    ),
    (["distillation.weight=0"], "every weight is 0, so there is nothing to learn from"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("words", "sentence"), REFUSALS, ids=[" ".join(words) for words, _ in REFUSALS])
def test_refused_with_one_sentence_before_training(words, sentence, tmp_path):
    nets = ["dataset=cifar10", f"dataset.root={tmp_path}", "teacher=resnet32x4", "student=resnet8x4", "distillation=simkd"]
    (found,) = (str(problem) for problem in validate(COMPOSER.compose([*nets, *words])) if problem.name != "")
    assert sentence in found


class Rolefree(nn.Module):
    def __init__(self, **shape):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(10, 64))

    def forward(self, image):
        return image.flatten(1) @ self.weight.T


def test_networks_without_landmarks_are_refused():
    for nets in ((Rolefree(), Net(4)), (Net(4), Rolefree())):
        with pytest.raises(
            ValueError, match="^simkd exchanges classifiers, and Rolefree declares no landmarks that say which it is$"
        ):
            SimKD(**WEIGHTS | LAYERS | {"factor": 2}).layers(*nets)


@pytest.mark.slow
def test_a_sketch_with_values_runs_as_the_network_would():
    shape = Shape(10, 3, 32)
    sketch = on_meta(compose_command(["student=resnet8x4"]).student, shape)
    made = with_values(sketch)
    image, state = image_of(2, 3, 32, 32), torch.random.get_rng_state()
    assert made(image).isfinite().all() and made(image).std() > 0
    assert torch.equal(with_values(sketch)(image), made(image)) and torch.equal(torch.random.get_rng_state(), state)
    assert sketch.stem[0].weight.is_meta and made.landmarks == sketch.landmarks
    assert torch.equal(with_values(made).stem[0].weight, made.stem[0].weight)
