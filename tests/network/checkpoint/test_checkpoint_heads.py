"""Checkpoints that were trained on other classes or channels, and class names in files of weights."""

import json

import numpy as np
import pytest
import torch
from experiments import COMPOSER, compose_command, said
from own_networks import NormNet
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import kdexp
from kdexp.configuration.nodes import build
from kdexp.distillation.base import Distiller, FeatureDistiller, Progress
from kdexp.distillation.hint import Hint
from kdexp.errors import BadCheckpoint, BadResult
from kdexp.experiment.experiment import Experiment
from kdexp.experiment.journal import Journal
from kdexp.experiment.obtain import obtain
from kdexp.experiment.starts import start_notes
from kdexp.models.mlp import MLP
from kdexp.network.checkpoint.classes import classes_of
from kdexp.network.checkpoint.fit import load_checkpoint, start_from
from kdexp.network.checkpoint.heads import for_channels
from kdexp.network.checkpoint.read import read_checkpoint
from kdexp.network.landmarks import Landmarks
from kdexp.report.rows import make_rows
from kdexp.training.prepare import prepare
from kdexp.validation.validator import validate

NORM = ("student._target_=own_networks.NormNet", "~student.hidden")


class Headed(NormNet):
    """A network with any module as its classifier, perhaps inside another one."""

    def __init__(self, head, name="head", channels=1):
        super().__init__(num_classes=2, in_channels=channels, image_size=8)
        self.head = head
        self.landmarks = Landmarks(classifier=name, last_map="body")


class Pooled(Headed):
    """A network whose classifier is a convolution."""

    def forward(self, image):
        return self.head(self.body(image).mean((2, 3), keepdim=True)).flatten(1)


def nested(classes):
    return Headed(nn.Sequential(nn.ReLU(), nn.Linear(8, classes)), "head.1")


NETS = {
    "linear": lambda classes: Headed(nn.Linear(8, classes)),
    "without bias": lambda classes: Headed(nn.Linear(8, classes, bias=False)),
    "nested": nested,
    "convolution": lambda classes: Pooled(nn.Conv2d(8, classes, 1)),
    "weight norm": lambda classes: Headed(nn.utils.parametrizations.weight_norm(nn.Linear(8, classes))),
}


def saved(model, path, classes=None):
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    save_file(weights, path, {"classes": json.dumps(classes)} if classes else None)
    return path


def answers(model, channels=1):
    image = torch.rand(3, channels, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model.eval()(image)


@pytest.fixture(params=NETS, ids=str)
def net(request):
    """Makes networks of one kind for a given number of classes."""
    return NETS[request.param]


# Classifiers


def test_a_classifier_for_other_classes_keeps_its_values_and_the_rest_is_loaded(net, tmp_path):
    file, model = net(7), net(3)
    path, before = saved(file, tmp_path / "seven.safetensors"), {n: v.clone() for n, v in model.state_dict().items()}
    (sentence,) = load_checkpoint(model, path, partly=True)
    head = f"{model.landmarks.classifier}."
    for name, value in model.state_dict().items():
        assert torch.equal(value, (before if name.startswith(head) else file.state_dict())[name]), name
    assert sentence.startswith(f"starts from {path}, classifier {model.landmarks.classifier} freshly initialised (")
    assert sentence.endswith("(file: 7 classes, data: 3)")


def test_without_partly_it_is_refused_and_nothing_is_loaded(net, tmp_path):
    model = net(3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(BadCheckpoint, match=r"does not fit \w+: head\S* \(file: 7 classes, data: 3\)$"):
        load_checkpoint(model, saved(net(7), tmp_path / "seven.safetensors"))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_an_equal_number_of_classes_needs_no_note(net, tmp_path):
    file, model = net(3), net(3)
    assert load_checkpoint(model, saved(file, tmp_path / "same.safetensors"), partly=True) == ()
    assert torch.equal(answers(model), answers(file))


@pytest.mark.parametrize(
    ("head", "why"),
    [
        ({}, "the file has none"),
        ({"head.weight": torch.ones(3, 9), "head.bias": torch.ones(3)}, "head.weight has the shape 3×9 in the file, 3×8 in"),
        ({"head.weight": torch.ones(3, 8)}, "head.bias has the shape none in the file, 3 in the model"),
        ({"head.0.weight": torch.ones(5, 8), "head.2.weight": torch.ones(4, 5)}, "file: 5 classes, data: 3"),
    ],
)
def test_other_misfits_of_a_classifier_are_explained(tmp_path, head, why):
    rest = {name: value for name, value in NETS["linear"](3).state_dict().items() if not name.startswith("head.")}
    torch.save(rest | head, tmp_path / "backbone.pt")
    model = NETS["linear"](3)
    *_, sentence = load_checkpoint(model, tmp_path / "backbone.pt", partly=True)
    assert f"classifier head freshly initialised ({why}" in sentence
    assert torch.equal(model.body[0].weight, rest["body.0.weight"])


def test_a_body_that_does_not_fit_is_refused_all_the_same(tmp_path):
    torch.save(MLP(num_classes=7, in_channels=1, image_size=8, hidden=[6]).state_dict(), tmp_path / "wide.pt")
    model = MLP(num_classes=3, in_channels=1, image_size=8, hidden=[5])
    with pytest.raises(BadCheckpoint, match="4 tensors differ, first features.1.weight"):
        load_checkpoint(model, tmp_path / "wide.pt", partly=True)


def test_a_checkpoint_that_fits_no_module_is_refused(tmp_path):
    torch.save(MLP(num_classes=7, in_channels=1, image_size=8, hidden=[]).state_dict(), tmp_path / "flat.pt")
    with pytest.raises(BadCheckpoint, match="2 tensors differ"):
        load_checkpoint(MLP(num_classes=3, in_channels=1, image_size=8, hidden=[]), tmp_path / "flat.pt", partly=True)


class TwoHeads(NormNet):
    """A network with two modules that give logits, as in distilled transformers."""

    def __init__(self, *, num_classes, in_channels, image_size):
        super().__init__(num_classes=num_classes, in_channels=in_channels, image_size=image_size)
        self.other = nn.Linear(8, num_classes)

    def forward(self, image):
        pooled = self.body(image).mean((2, 3))
        return self.head(pooled) + self.other(pooled)


def test_two_modules_that_give_logits_are_both_initialised(tmp_path):
    file, model = (TwoHeads(num_classes=classes, in_channels=1, image_size=8) for classes in (7, 3))
    start = start_from(model, saved(file, tmp_path / "two.safetensors"), partly=True)
    assert start.fresh == ("head", "other")
    assert "classifier head and other freshly initialised" in start.sentences()[0]


# Channels


@pytest.mark.parametrize(("before", "after", "how"), [(3, 1, "summed"), (1, 3, "shared out"), (4, 1, "summed")])
def test_an_adapted_first_convolution_gives_the_same_output_for_grey(tmp_path, before, after, how):
    file, model = (Headed(nn.Linear(8, 2), channels=channels) for channels in (before, after))
    (sentence,) = load_checkpoint(model, saved(file, tmp_path / "colour.safetensors"))
    assert sentence.endswith(f"first convolution body.0 {how} from {before} to {after} channels")
    grey = torch.rand(3, 1, 8, 8)
    ours, theirs = (net.eval()(grey.expand(-1, channels, -1, -1)) for net, channels in ((model, after), (file, before)))
    torch.testing.assert_close(ours, theirs)


def test_other_channels_are_initialised_or_refused(tmp_path):
    path = saved(Headed(nn.Linear(8, 2), channels=4), tmp_path / "four.safetensors")
    model = Headed(nn.Linear(8, 2), channels=3)
    with pytest.raises(BadCheckpoint, match=r"body\.0 \(file: 8×4×3×3, model: 8×3×3×3\)"):
        load_checkpoint(model, path)
    (sentence,) = load_checkpoint(model, path, partly=True)
    assert "first convolution body.0 freshly initialised (file: 8×4×3×3, model: 8×3×3×3)" in sentence
    assert for_channels(torch.ones(2, 2, 1, 1), 3) is None


# Names of classes

ANIMALS = ["ant", "bee", "cat"]


def test_the_same_names_in_another_order_are_put_in_the_datas_order(net, tmp_path):
    file, model = net(3), net(3)
    path = saved(file, tmp_path / "named.safetensors", ["cat", "ant", "bee"])
    (sentence,) = load_checkpoint(model, path, classes=ANIMALS)
    assert sentence == f"starts from {path}, classes put in the data's order"
    torch.testing.assert_close(answers(model), answers(file)[:, [1, 2, 0]])


def test_the_datas_classes_are_selected_from_more(net, tmp_path):
    file, model = net(5), net(3)
    path = saved(file, tmp_path / "named.safetensors", ["cat", "dog", "ant", "elk", "bee"])
    (sentence,) = load_checkpoint(model, path, classes=ANIMALS)
    assert sentence.endswith("classes put in the data's order, 3 of its 5")
    torch.testing.assert_close(answers(model), answers(file)[:, [2, 4, 0]])


@pytest.mark.parametrize("names", [["ant", "bee", "cow"], ["ant", "bee"]])
def test_a_classifier_for_other_names_is_initialised_or_refused(net, tmp_path, names):
    path, differing = saved(net(len(names)), tmp_path / "named.safetensors", names), "only in the data: cat"
    with pytest.raises(BadCheckpoint, match=differing):
        load_checkpoint(net(3), path, classes=ANIMALS)
    (sentence,) = load_checkpoint(net(3), path, classes=ANIMALS, partly=True)
    assert differing in sentence and ("only in the file: cow" in sentence) == ("cow" in names)


@pytest.mark.parametrize(("names", "classes"), [(None, ANIMALS), (["x", "y", "z"], None), (ANIMALS, ANIMALS)])
def test_names_that_agree_or_are_unknown_change_nothing(tmp_path, names, classes):
    file, model = NETS["linear"](3), NETS["linear"](3)
    assert load_checkpoint(model, saved(file, tmp_path / "named.safetensors", names), classes=classes) == ()
    assert torch.equal(answers(model), answers(file))


@pytest.mark.parametrize("names", [["ant", "bee"], ["ant", "ant", "bee"]])
def test_names_that_contradict_the_classifier_are_refused(tmp_path, names):
    path = saved(NETS["linear"](3), tmp_path / "named.safetensors", names)
    with pytest.raises(BadCheckpoint, match="names 2 classes, but its classifier has 3 rows"):
        load_checkpoint(NETS["linear"](3), path, classes=ANIMALS, partly=True)


@pytest.mark.parametrize("stated", ["cat,dog", "null", "[]", "[1, 2]", '{"cat": 0}', '"cat"'])
def test_malformed_metadata_name_no_classes(tmp_path, stated):
    save_file({"weight": torch.ones(1)}, tmp_path / "other.safetensors", {"classes": stated})
    assert classes_of(tmp_path / "other.safetensors") is None
    assert read_checkpoint(tmp_path / "other.safetensors").classes is None


def test_reordering_is_refused_if_the_classifier_is_unknown(tmp_path):
    file, model = NETS["linear"](3), NETS["linear"](3)
    model.landmarks = None
    path = saved(file, tmp_path / "named.safetensors", ANIMALS[::-1])
    with pytest.raises(BadCheckpoint, match="in another order, and it is unknown which module gives the logits"):
        load_checkpoint(model, path, classes=ANIMALS, partly=True)
    assert load_checkpoint(model, path) == ()


# Runs on images of three classes


@pytest.fixture(scope="module")
def animals(tmp_path_factory):
    """Overrides for a folder of small images whose classes are black, grey and white."""
    folder = tmp_path_factory.mktemp("animals")
    for split, count in (("train", 4), ("test", 2)):
        for label, name in enumerate(ANIMALS):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = np.full((8, 8), 100 * label + number, np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{number}.png")
    root = f"dataset.root={folder}"
    shape = ["dataset.in_channels=1", "dataset.image_size=8", "dataset.val_fraction=0", "batch_size=4"]
    return ["dataset=image_folder", root, *shape, "teacher=mlp_small"]


@pytest.fixture(scope="module")
def teacher(animals, tmp_path_factory):
    """Writes a trained teacher's network with its classes in another order or under other names."""
    folder = tmp_path_factory.mktemp("teacher")
    config = compose_command([f"output_dir={folder}", *animals, "teacher_epochs=30", "device=cpu"])
    (entry,) = obtain(Experiment(config, Journal(quiet=True)), ["teacher"])
    weights = {name.removeprefix("model."): value for name, value in entry.stored.tensors("last").items()}
    names = entry.stored.result["spec"]["data"]["classes"]
    assert names == ANIMALS and entry.stored.result["test"]["last"]["top1"] == 1

    def write(order, called=None):
        rows = [names.index(name) for name in order]
        turned = {name: value[rows] if name.startswith("classifier.") else value for name, value in weights.items()}
        path = folder / f"{'_'.join(called or order)}.safetensors"
        save_file(turned, path, {"classes": json.dumps(called or order)})
        return path

    write.stored = entry.stored
    return write


def problems(*words):
    return [str(problem) for problem in validate(COMPOSER.compose(list(words)))]


@pytest.mark.slow
def test_a_teachers_classes_in_another_order_are_mapped(make_experiment, animals, teacher):
    path = teacher(["cat", "ant", "bee"])
    experiment = make_experiment(*animals, f"teacher.checkpoint={path}", "epochs=1")
    assert not validate(experiment.config)
    first, *_ = obtain(experiment)
    assert first.stored.result["test"]["last"]["top1"] == 1
    assert "near chance" not in said(experiment)
    assert start_notes(experiment) == [f"teacher: taken from {path}, classes put in the data's order"]


def test_the_key_covers_which_rows_are_taken(make_experiment, animals, teacher):
    same, turned = (make_experiment(*animals, f"teacher.checkpoint={teacher(order)}") for order in (ANIMALS, ANIMALS[::-1]))
    assert "checkpoint_rows" not in same.spec("teacher").model
    assert turned.spec("teacher").model["checkpoint_rows"] == [2, 1, 0]
    other = make_experiment(*animals, f"student.checkpoint={teacher(ANIMALS, ['ant', 'bee', 'cow'])}")
    assert other.spec("baseline").model["checkpoint_rows"] == []


def test_a_teacher_of_other_classes_is_refused_with_their_names(animals, teacher):
    (found,) = problems(*animals, f"teacher.checkpoint={teacher(ANIMALS, ['ant', 'bee', 'cow'])}")
    assert "only in the file: cow; only in the data: cat), and kd reads the teacher's logits" in found


def test_a_stored_learners_weights_have_its_class_names(teacher):
    assert classes_of(teacher.stored.path / "last.safetensors") == ANIMALS


@pytest.mark.slow
def test_reordering_is_refused_if_other_modules_have_weights_per_class(animals, tmp_path):
    network = TwoHeads(num_classes=3, in_channels=1, image_size=8)
    path = saved(network, tmp_path / "two.safetensors", ANIMALS[::-1])
    own = ["teacher._target_=test_checkpoint_heads.TwoHeads", "~teacher.hidden", f"teacher.checkpoint={path}"]
    (found,) = problems(*animals, *own)
    assert "has the data's classes in another order, and head alone does not compute the logits" in found


# Students


@pytest.fixture
def seven(tmp_path):
    """Weights of NormNets for seven classes and images of several channels."""

    def write(channels=1):
        network = NormNet(num_classes=7, in_channels=channels, image_size=8)
        return saved(network, tmp_path / f"seven_{channels}.safetensors")

    return write


def starts(experiment, role):
    """Returns the weights from which that learner's training starts."""
    (learner,), _ = prepare([experiment.entry(role)], None, experiment.shape, experiment.precision, torch.arange(10))
    return learner.model.state_dict()


@pytest.mark.slow
def test_students_start_equal_with_a_classifier_from_the_runs_seed(make_experiment, seven):
    path = seven()
    words = (*NORM, f"student.checkpoint={path}", "distillation=kd")
    one, two = make_experiment(*words), make_experiment(*words, "seed=1")
    baseline, distilled, other = starts(one, "baseline"), starts(one, "label_smoothing"), starts(two, "baseline")
    fresh = make_experiment(*NORM)
    assert all(torch.equal(value, distilled[name]) for name, value in baseline.items())
    assert torch.equal(baseline["head.weight"], starts(fresh, "baseline")["head.weight"])
    assert {name for name, value in baseline.items() if not torch.equal(value, other[name])} == {"head.weight", "head.bias"}
    assert one.spec("baseline").key != two.spec("baseline").key != fresh.spec("baseline").key


def test_a_frozen_student_trains_its_new_classifier_and_nothing_else(make_experiment, seven):
    experiment = make_experiment(*NORM, f"student.checkpoint={seven(3)}", "student.frozen_backbone=true")
    assert not validate(experiment.config)
    before = starts(experiment, "baseline")
    for entry in obtain(experiment)[1:]:
        after = {name.removeprefix("model."): value for name, value in entry.stored.tensors("last").items()}
        assert {name for name, value in before.items() if not torch.equal(value, after[name])} == {"head.weight", "head.bias"}


@pytest.mark.parametrize("word", ["student.frozen_backbone=true", "controls=[frozen_backbone]"])
def test_a_frozen_backbone_that_was_never_trained_is_refused(seven, word):
    (found,) = problems(*NORM, f"student.checkpoint={seven(4)}", "dataset._target_=own_data.Squares", *SQUARES, word)
    assert "body.0 does not fit the trained weights and would stay untrained" in found


SQUARES = ("+dataset.image_size=8", "+dataset.in_channels=3", "+dataset.images=40", "dataset.mean=null", "dataset.std=null")


@pytest.mark.slow
def test_the_notes_are_printed_in_a_dry_run_and_in_a_run(here, seven):
    words = [*NORM, f"student.checkpoint={seven(3)}", "~teacher", "distillation=none", "epochs=1", "limit_batches=1"]
    sentence = (
        f"student: starts from {seven(3)}, first convolution body.0 summed from 3 to 1 channels, "
        "classifier head freshly initialised (file: 7 classes, data: 10)"
    )
    for code, printed in (here(*words, "dry_run=true"), here(*words)):
        assert code == 0 and printed.out.count(sentence) == 1


@pytest.mark.slow
def test_a_sweep_prints_the_notes_once_and_logs_them_in_every_run(here, seven, tmp_path):
    words = [*NORM, f"student.checkpoint={seven()}", "~teacher", "distillation=none", "epochs=1", "limit_batches=1"]
    code, printed = here("-m", *words, "seed=0,1")
    assert code == 0 and printed.out.count("freshly initialised") == 1
    logs = [log.read_text() for log in tmp_path.glob("outputs/sweeps/*/0*/log.txt")]
    assert [log.count("student: starts from") for log in logs] == [1, 1]
    assert here("-m", *words, "seed=0,1", "dry_run=true")[1].out.count("freshly initialised") == 1


# Teachers


@pytest.fixture
def hundred(tmp_path):
    """Overrides for a teacher with a checkpoint of a hundred classes."""
    network = NormNet(num_classes=100, in_channels=1, image_size=8)
    path = saved(network, tmp_path / "hundred.safetensors")
    return ["teacher._target_=own_networks.NormNet", "~teacher.hidden", f"teacher.checkpoint={path}"]


BODIES = ["distillation.student_layers=[features]", "distillation.teacher_layers=[body]"]
READING = [
    ["distillation=kd"],
    ["distillation=kd", "distillation.alpha=0.9"],
    ["distillation=dkd"],
    ["distillation=mse_logits"],
    ["distillation=srrl"],
    ["distillation=sp", "distillation.kd_weight=1"],
    ["distillation=rkd", "distillation.alpha=0.5"],
    ["distillation=cosine", "distillation.student_layers=[classifier]", "distillation.teacher_layers=[head]"],
    ["distillation=sum", "+distillation@distillation.methods.sp=sp", "+distillation@distillation.methods.dkd=dkd"],
    ["distillation._target_=test_checkpoint_heads.Undeclared", "~distillation.student_layers"],
]


class Undeclared(Distiller):
    """A method whose own term may read anything."""

    def transfer(self, batch, student, teacher, progress):
        return {"own": (student.logits - teacher.logits).square().mean()}


@pytest.mark.slow
@pytest.mark.parametrize("words", READING[:-1], ids=" ".join)
def test_a_method_that_reads_the_teachers_logits_needs_its_classifier(hundred, words):
    (found,) = problems(*hundred, *words)
    assert "its classifier does not fit the data (file: 100 classes, data: 10), and" in found
    assert (
        "reads the teacher's logits; take a checkpoint with the data's classes, or a method that reads only features" in found
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "way"),
    [
        (["distillation=kd", "distillation.alpha=0.5"], "distillation=hint"),
        (["distillation=sp", "distillation.kd_weight=1"], "distillation.kd_weight=0"),
        (["distillation=rkd", "distillation.alpha=0.5"], "distillation.kd_weight=0 distillation.alpha=null"),
    ],
)
def test_the_suggested_fix_works(hundred, words, way):
    (found,) = problems(*hundred, *words)
    assert found.endswith(f"only features: {way}")
    layers = ["distillation.student_layers=[classifier.input]", "distillation.teacher_layers=[head.input]"]
    assert not problems(*hundred, *words[:1], *way.split(), *layers)


FEATURES = [
    ["distillation=rkd"],
    ["distillation=sp"],
    ["distillation=crd"],
    ["distillation=rkd", "distillation.teacher_layers=[head.input]", "distillation.student_layers=[classifier.input]"],
    ["distillation=sum", "+distillation@distillation.methods.sp=sp", "~distillation@distillation.methods.mse_logits"],
    ["distillation=none"],
]


@pytest.mark.slow
@pytest.mark.parametrize("words", FEATURES, ids=" ".join)
def test_a_method_that_reads_only_features_does_not_need_it(hundred, words):
    assert not problems(*hundred, *words)


@pytest.mark.slow
def test_members_of_an_ensemble_need_their_classifiers(hundred):
    members = f"teacher.members=[mlp_small,{{_target_: own_networks.NormNet, checkpoint: {hundred[-1].partition('=')[2]}}}]"
    (found,) = problems("teacher=ensemble", members)
    assert found.startswith("teacher.members.1.checkpoint=") and "an ensemble needs its members' logits" in found


@pytest.mark.slow
def test_a_teacher_with_a_first_convolution_for_other_channels_is_refused(tmp_path):
    path = saved(NormNet(num_classes=10, in_channels=4, image_size=8), tmp_path / "four.safetensors")
    words = ["teacher._target_=own_networks.NormNet", "~teacher.hidden", f"teacher.checkpoint={path}", "distillation=sp"]
    (found,) = problems(*words, *NORM, "dataset._target_=own_data.Squares", *SQUARES)
    assert "does not fit the first convolution of NormNet: body.0 (file: 8×4×3×3, model: 8×3×3×3)" in found


def test_no_accuracy_is_shown_for_an_unused_classifier(make_experiment, hundred):
    experiment = make_experiment(*hundred, "distillation=sp", "diagnosis=always", "epochs=1")
    entries = obtain(experiment)
    teacher, _, distilled = make_rows(entries, experiment)
    assert teacher.test_top1 is teacher.nll is teacher.ece is distilled.agreement is None
    assert distilled.difference is not None and distilled.compression is not None
    assert "only its features are used" in said(experiment) and "near chance" not in said(experiment)


@pytest.mark.slow
def test_a_run_with_an_unused_classifier_finishes_and_is_reported(here, hundred, tmp_path):
    code, printed = here("-m", *hundred, "distillation=sp", "diagnosis=always", "epochs=1", "limit_batches=1", "seed=0,1")
    assert code == 0 and "nan" not in printed.out
    assert printed.out.count("classifier head not used and accuracy not shown (file: 100 classes, data: 10)") == 1
    run = next(tmp_path.glob("outputs/sweeps/*/000"))
    with pytest.raises(BadResult, match="its classifier was not trained"):
        kdexp.load(run, role="teacher")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "at",
        "cosine",
        "crd",
        "feature_cosine",
        "feature_pretraining",
        "fitnet",
        "hint",
        "reviewkd",
        "rkd",
        "semckd",
        "sp",
        "vid",
    ],
)
def test_methods_that_declare_features_only_ignore_logits(make_experiment, name):
    """The method's terms do not depend on the teacher's logits."""
    experiment = make_experiment("teacher=resnet14", "student=resnet8", f"distillation={name}", "batch_size=8")
    distilled = experiment.entry("distilled")
    method = build(distilled.spec.method)
    assert isinstance(method, FeatureDistiller) and not method.reads_logits
    teacher = build({"_target_": "kdexp.models.resnet_cifar.ResNet", "depth": 14, "widths": [16, 16, 32, 64]} | SHAPE)
    split = experiment.data.student_train
    (learner,), frozen = prepare([distilled], teacher, experiment.shape, experiment.precision, split.labels)
    (batch,) = split.batches(8, seed=0, epoch=0, limit=1)
    said_of, losses = frozen.ask(batch.image), []
    for logits in (said_of.logits, torch.full_like(said_of.logits, torch.nan)):
        state = learner.progress()
        said_of.logits = logits
        with learner.stream:
            losses.append(method_losses(learner, batch, said_of))
        learner.resume(state)
    assert losses[0] == losses[1] and all(map(np.isfinite, losses[0].values()))


SHAPE = {"num_classes": 10, "in_channels": 1, "image_size": 8}


def method_losses(learner, batch, teacher):
    terms = learner.distiller.losses(batch, learner.forward(batch.image), teacher, Progress(0, 1, 0))
    return {name: float(term.detach()) for name, term in terms.items()}


def test_features_only_is_not_inherited():
    class Inherits(Hint):
        """A subclass that declares nothing itself."""

    shared = {"temperature": 1.0, "alpha": None, "ce_weight": None, "kd_weight": None}
    layers = {"weight": 1.0, "student_layers": None, "teacher_layers": None}
    assert not Hint(**shared, **layers).reads_logits and Inherits(**shared, **layers).reads_logits
    assert Undeclared(**shared).reads_logits


# Folders


def test_a_folder_is_no_checkpoint_and_a_run_folder_is_refused_with_a_fix(refused, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    assert "is a folder, and a checkpoint is a file\n" in refused(f"student.checkpoint={folder}")
    (folder / "table.json").write_text("{}")
    assert f"; kdexp-export {folder} --format safetensors writes one" in refused(f"student.checkpoint={folder}")
