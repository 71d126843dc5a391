"""Control rows, label smoothing, and students that start from trained weights."""

from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from each_method import FEW_LABELS
from experiments import COMPOSER, said
from safetensors.torch import load_file, save_file

from kdexp.configuration.roles import EXPLAINED, PARTS, Control
from kdexp.distillation.label_smoothing import LabelSmoothing
from kdexp.experiment.obtain import obtain
from kdexp.network.capture import Outputs
from kdexp.report.remarks import remarks
from kdexp.validation.validator import validate

OWN = ("student._target_=own_networks.NormNet", "~student.hidden")


@pytest.fixture
def trained(make_experiment, tmp_path):
    """A file of weights of a trained NormNet."""
    (baseline,) = obtain(make_experiment(*OWN, "~teacher", "distillation=none", "seed=7"))
    weights = load_file(baseline.stored.path / "last.safetensors")
    save_file({name.removeprefix("model."): value for name, value in weights.items()}, tmp_path / "start.safetensors")
    return tmp_path / "start.safetensors"


def weights_of(entry):
    stored = entry.stored.tensors("last")
    return {name.removeprefix("model."): value for name, value in stored.items() if name.startswith("model.")}


@pytest.mark.slow
def test_all_controls_in_one_run(make_experiment, trained):
    controls = [role for role in get_args(Control) if not PARTS[role].quantised]  # tests/deployment/test_int8.py has that one
    experiment = make_experiment(*OWN, *FEW_LABELS, f"student.checkpoint={trained}", f"controls=[{','.join(controls)}]")
    entries = obtain(experiment)
    assert [entry.role for entry in entries] == ["teacher", "baseline", "distilled", *controls]
    assert all(entry.stored for entry in entries)
    assert len({entry.spec.key for entry in entries}) == len(entries)
    assert len([line for line in remarks(entries, experiment) if line.partition(":")[0] in EXPLAINED]) == 7


@pytest.mark.slow
def test_a_random_teacher_has_the_teachers_architecture_and_no_training(make_experiment):
    experiment = make_experiment("controls=[random_teacher]")
    entries = obtain(experiment)
    untrained = experiment.store.find(experiment.spec("untrained_teacher").key)
    assert untrained.result["history"] == [] and untrained.result["parameters"] == 85_002
    assert entries[-1].spec.teacher == untrained.key != entries[2].spec.teacher
    assert "untrained_teacher: left untrained" in said(experiment)


@pytest.mark.slow
def test_a_self_teacher_is_the_baseline(make_experiment):
    *_, baseline, _, control = obtain(make_experiment("controls=[self_teacher]"))
    assert control.spec.teacher == baseline.spec.key


@pytest.mark.slow
def test_controls_do_not_change_the_other_rows(make_experiment):
    plain = obtain(make_experiment())
    controlled = obtain(make_experiment("force=true", "controls=[label_smoothing,random_teacher]"))
    for before, after in zip(plain, controlled, strict=False):
        assert before.spec.key == after.spec.key
        assert before.stored.result["history"] == after.stored.result["history"]


@pytest.mark.slow
def test_controls_that_depend_on_a_failed_baseline_fail(make_experiment):
    failing = ("optimizer=sgd", "optimizer.lr=1e30", "optimizer@teacher_optimizer=adam")
    entries = obtain(make_experiment(*failing, "controls=[self_teacher]"))
    assert entries[-1].role == "self_teacher" and entries[-1].failure == "the baseline failed"


@pytest.mark.slow
def test_only_the_classifier_of_a_frozen_student_changes(make_experiment, trained):
    start = load_file(trained)
    overrides = (*OWN, f"student.checkpoint={trained}", "student.frozen_backbone=true")
    _, baseline, distilled = obtain(make_experiment(*overrides))
    for entry in (baseline, distilled):
        changed = {name for name, value in weights_of(entry).items() if not torch.equal(value, start[name])}
        assert changed == {"head.weight", "head.bias"}
    assert not torch.equal(weights_of(baseline)["head.weight"], weights_of(distilled)["head.weight"])


@pytest.mark.slow
def test_a_student_without_trained_weights_is_not_frozen(make_experiment, trained):
    frozen, plain = (
        make_experiment(*OWN, f"student.checkpoint={trained}", f"student.frozen_backbone={on}") for on in ("true", "false")
    )
    assert frozen.spec("baseline").key != plain.spec("baseline").key
    assert (
        frozen.spec("baseline").key
        == make_experiment(*OWN, f"student.checkpoint={trained}", "controls=[frozen_backbone]").spec("frozen_backbone").key
    )


@pytest.mark.slow
def test_from_scratch_ignores_the_checkpoint(make_experiment, trained):
    start = make_experiment(*OWN, f"student.checkpoint={trained}", "controls=[from_scratch]")
    assert start.spec("from_scratch").key == make_experiment(*OWN).spec("baseline").key != start.spec("baseline").key


@pytest.mark.slow
def test_strong_labels_are_the_labelled_images_in_strong_views(make_experiment):
    experiment = make_experiment(*FEW_LABELS, "controls=[strong_labels]", "~teacher", "distillation=none")
    baseline, control = (experiment.spec(role) for role in ("baseline", "strong_labels"))
    assert control.strong_view and not baseline.strong_view and control.data == baseline.data
    assert control.method == {**baseline.method, "student_view": "strong"}
    entries = obtain(experiment)
    assert entries[-1].method == "CE, strong views" and entries[0].method == "CE"
    assert not torch.equal(weights_of(entries[0])["features.1.weight"], weights_of(entries[1])["features.1.weight"])


@pytest.mark.slow
def test_all_labels_is_the_baseline_without_a_choice_of_labels_for_as_many_steps(make_experiment):
    words = ("~teacher", "distillation=fixmatch", "limit_batches=null", "epochs=1", "distillation.unlabelled_ratio=1")
    experiment = make_experiment(*words, *FEW_LABELS, "controls=[all_labels]")
    whole = make_experiment(
        "~teacher", "distillation=none", "limit_batches=null", "epochs=1", *FEW_LABELS, "dataset.labels=null"
    )
    assert experiment.spec("all_labels").key == whole.spec("baseline").key != experiment.spec("baseline").key
    entries = obtain(experiment)
    assert all(entry.stored for entry in entries)
    assert [entry.stored.result["train_images"] for entry in entries] == [30, 30, 90]
    assert "(96 times one of 30 labelled images)" in said(experiment) and "3 batches (90 images)" in said(experiment)
    table = remarks(entries, experiment)
    assert "Labels of 30 of 90 training images (dataset.label_seed=0), and of 100 for validation." in table


REFUSED = [
    (["controls=[strong_labels]"], "controls=strong_labels: reads strong views, and there is no RandAugment for these"),
    (["controls=[all_labels]"], "controls=all_labels: is the baseline, since all images have their labels; choose how many"),
    (["controls=[selfteacher]"], "controls=['selfteacher']: each entry must be one of random_teacher, self_teacher"),
    (["controls=self_teacher"], "controls='self_teacher': must be a list"),
    (["controls=[from_scratch]"], "controls=from_scratch: needs a student that starts from trained weights"),
    (["controls=[random_teacher]", "distillation=none"], "controls=random_teacher: needs a method that learns from a teacher"),
    (["student.frozen_backbone=true"], "student.frozen_backbone=True: the backbone would stay untrained"),
    (["student.frozen_backbone=1"], "student.frozen_backbone=1: must be true or false"),
    (["+teacher.frozen_backbone=true"], "teacher.frozen_backbone: unknown key"),
    (["label_smoothing.smoothing=1"], "label_smoothing.smoothing=1: must be at least 0 and below 1"),
    (
        ["distillation=hint", "distillation.teacher_layers=[features.4]", "student.hidden=[8]", "controls=[self_teacher]"],
        "controls=self_teacher:",
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(("words", "sentence"), REFUSED)
def test_refused(words, sentence):
    assert any(sentence in str(problem) for problem in validate(COMPOSER.compose(words))), validate(COMPOSER.compose(words))


def test_label_smoothing_by_hand():
    method = LabelSmoothing(smoothing=0.2, temperature=1.0, alpha=None, ce_weight=None, kd_weight=None)
    logits, labels = torch.tensor([[2.0, 0.0, -1.0, 0.5]]), torch.tensor([0])
    target = torch.tensor([[0.8 + 0.05, 0.05, 0.05, 0.05]])
    by_hand = -(target * F.log_softmax(logits, 1)).sum()
    batch = type("B", (), {"label": labels})
    torch.testing.assert_close(method.losses(batch, Outputs(logits), None, None)["ce"], by_hand)


def test_every_control_is_explained():
    assert {*get_args(Control), "pretrained"} == set(EXPLAINED) < set(PARTS)
