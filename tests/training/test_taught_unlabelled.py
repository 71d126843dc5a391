"""`distillation.unlabelled_ratio`: a teacher teaches unlabelled images, too, and the loss on labels knows nothing of them."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from each_method import BESIDE, METHODS, PAIR, TEACHING, TEACHING_UNLABELLED, chosen, class_of
from experiments import COMPOSER
from loops import assert_same, first_read, fresh, look_up, quiet_training

from kdexp.configuration.nodes import build
from kdexp.data.views import PLAIN, WEAK, Reading
from kdexp.distillation.base import Progress
from kdexp.experiment.lockstep import train_together
from kdexp.experiment.obtain import obtain
from kdexp.training import recorded_steps
from kdexp.training.loop import Steps
from kdexp.validation.validator import Validator
from kdexp.validation.views import TEACHABLE, UNKNOWN_IMAGES, check_views

START = Progress(epoch=0.0, epochs=1, step=0)
TINY = (*PAIR, "epochs=2", "teacher_epochs=1", "limit_batches=3", "batch_size=8")
KD = chosen(f"kd{BESIDE}")
# By SGD: Adam would enlarge what rounding the learning rate changes.
STOPS = (*chosen(f"feature_pretraining{BESIDE}"), "distillation.label_free=0.5", "optimizer=sgd", "optimizer.lr=0.1")


def rows(outputs, start):
    return outputs.map(lambda values: values[start : start + 6])


@pytest.mark.parametrize("method", TEACHING_UNLABELLED)
def test_its_own_terms_are_of_all_images_and_the_labels_loss_of_the_labelled_ones(make_experiment, method):
    experiment = make_experiment(*PAIR, *chosen(method), "distillation.ce_weight=1", "distillation.alpha=null")
    (learner,), teacher = fresh(experiment, "distilled")
    batch, theirs = first_read(learner, teacher, experiment.data.student_train, 6)
    images = learner.distiller.images(batch)
    assert len(images) == 18 == len(theirs.logits) and torch.equal(images[:6], batch.image)
    assert torch.equal(images[6:], batch.unlabelled.views[learner.distiller.student_view])
    learner.eval()
    ours = learner.forward(images)
    terms = learner.distiller.losses(batch, ours, theirs, START)
    thirds = [learner.distiller.losses(batch, rows(ours, at), rows(theirs, at), START) for at in (0, 6, 12)]
    for name in terms.keys() - {"ce"}:
        torch.testing.assert_close(terms[name], sum(third[name] for third in thirds) / 3)
        assert terms[name] != thirds[0][name]
    assert torch.equal(terms["ce"], thirds[0]["ce"])
    if not batch.is_mixed:
        torch.testing.assert_close(terms["ce"], F.cross_entropy(ours.logits[:6], batch.label))


@pytest.mark.slow
@pytest.mark.parametrize("method", TEACHING_UNLABELLED)
def test_the_labels_of_unlabelled_images_reach_nothing(make_experiment, method):
    states = []
    for change in (False, True):
        experiment = make_experiment(*TINY, *chosen(method))
        learners, teacher = fresh(experiment, "distilled")
        split = experiment.data.train
        if change:
            known = torch.zeros(90, dtype=torch.bool)
            known[split._labelled] = True
            labels = split._whole.labels
            labels[~known] = labels[~known].roll(7)
        quiet_training(learners, split, teacher, None, epochs=2, batch_size=8, limit_batches=2)
        assert not learners[0].failure, learners[0].traceback
        states.append((learners[0].state_dict(), learners[0].history))
    (ours, history), (theirs, other) = states
    assert all(torch.equal(ours[name], theirs[name]) for name in ours) and history == other


def test_only_its_own_key_changes_and_none_without(make_experiment):
    beside, usual = make_experiment(*TINY, *KD), make_experiment(*TINY, *KD, "distillation.unlabelled_ratio=0")
    null = make_experiment(*TINY, *KD, "distillation.unlabelled_ratio=null")
    assert beside.spec("distilled").key != usual.spec("distilled").key == null.spec("distilled").key
    assert "unlabelled_ratio" not in usual.spec("distilled").method
    assert {beside.spec(role).key == usual.spec(role).key for role in ("teacher", "baseline")} == {True}
    assert beside.entry("distilled").method.endswith(", 2 unlabelled per label")


@pytest.mark.slow
def test_lockstep_trains_what_each_alone_would_be(make_experiment, tmp_path):
    """Also next to a student that is taught labelled images alone, and one that has its teacher read other views."""
    jobs = [KD, (*KD, "views=fixed"), (*KD, "distillation.unlabelled_ratio=0"), chosen(f"feature_cosine{BESIDE}")]
    together = [make_experiment(*TINY, *job, f"store={tmp_path}/together") for job in jobs]
    for experiment in together[1:]:
        experiment.session = together[0].session
    train_together(together, None)
    found = {entry.spec.key: entry for experiment in together for entry in obtain(experiment)}
    sides = sorted(entry.stored.result["provenance"]["trained_side_by_side"] for entry in found.values())
    assert sides == [1, 5, 5, 5, 5, 5]
    for job in jobs:
        for entry in obtain(make_experiment(*TINY, *job, f"store={tmp_path}/alone")):
            assert_same(entry, found[entry.spec.key])


@pytest.mark.slow
@pytest.mark.parametrize("memory", ["device", "ram"])
@pytest.mark.parametrize("views", ["fixed", "same"])
@pytest.mark.parametrize("method", [KD, STOPS], ids=["kd", "a method that stops reading them"])
def test_recorded_steps_read_the_same_images(make_experiment, monkeypatch, method, views, memory):
    monkeypatch.setattr(recorded_steps, "record_graph", lambda work, generators: work)
    states = []
    for recording in (False, True):
        experiment = make_experiment(*TINY, *method, f"views={views}", "fast=true", f"memory={memory}")
        experiment.precision = dataclasses.replace(experiment.precision, graph=recording)
        learners, teacher = fresh(experiment, "distilled")
        for each in teacher.by_reading.values():
            look_up(each, each.images_of(experiment.data.student_train))
        quiet_training(learners, experiment.data.student_train, teacher, None, epochs=2, batch_size=8, limit_batches=6)
        assert not learners[0].failure and not learners[0].remark, learners[0].traceback
        states.append(learners[0].state_dict())
    plain, recorded = states
    for name, value in plain.items():  # a learning rate is rounded to fp32 in a recorded step
        torch.testing.assert_close(recorded[name], value, rtol=1e-4, atol=1e-5)


def test_a_teacher_that_reads_plain_images_has_a_table_of_the_unlabelled_ones(make_experiment):
    experiment = make_experiment(*TINY, *KD, "views=fixed")
    split = experiment.data.student_train
    (_, _), live = fresh(experiment, "distilled", "distilled")
    (learner,), table = fresh(experiment, "distilled")
    reading = Reading(PLAIN, unlabelled=True)
    assert list(live.by_reading) == [Reading(PLAIN), reading]
    look_up(table.by_reading[reading], split.unlabelled)
    assert table.by_reading[reading].table.images == 90
    steps = [Steps(split, teacher, 1, 8, 0, 2) for teacher in (live, table)]
    read = [step.unlabelled([learner], 0) for step in steps]
    assert [each.views for each in read] == [(PLAIN, WEAK), (WEAK,)], "no plain images are made for a table"
    images = steps[0].draw(0, (PLAIN,), read[0])
    table.by_reading[reading].prepare_epoch(split, images)
    for batch in split.batches_of(images, 8):
        assert torch.equal(table.by_reading[reading](batch).logits, live.by_reading[reading](batch).logits)


def test_a_part_of_a_batch_has_its_share_of_unlabelled_images(make_experiment):
    experiment = make_experiment(*TINY, *KD)
    (learner,), teacher = fresh(experiment, "distilled")
    batch, _ = first_read(learner, teacher, experiment.data.student_train, 7)
    parts = [batch.part(slice(0, 3)), batch.part(slice(3, 7))]
    assert [len(part.unlabelled.index) for part in parts] == [6, 8]
    assert torch.equal(torch.cat([part.unlabelled.index for part in parts]), batch.unlabelled.index)
    assert torch.equal(torch.cat([part.unlabelled.views[WEAK] for part in parts]), batch.unlabelled.views[WEAK])


def test_refusals_name_the_methods_that_teach_unlabelled_images():
    named = {word for word in TEACHABLE.replace(",", " ").split() if word in METHODS}
    assert {f"{name}{BESIDE}" for name in named} == set(TEACHING_UNLABELLED)


UNABLE = [method for method in TEACHING if not class_of(method).of_outputs and method != "sum"]


@pytest.mark.parametrize("method", [*UNABLE, "none"])
def test_other_methods_refuse_unlabelled_images(method):
    node = COMPOSER.compose([f"distillation={method}", "distillation.unlabelled_ratio=1"])["distillation"]
    found = list(map(str, check_views(build(node), "distillation", UNKNOWN_IMAGES)))
    assert any(problem.startswith("distillation.unlabelled_ratio=1: ") and TEACHABLE in problem for problem in found), found


def test_a_sum_teaches_unlabelled_images_if_all_its_methods_do():
    words = (*PAIR, *KD, "distillation=sum", "~distillation@distillation.methods.rkd", "distillation.unlabelled_ratio=1")
    assert not Validator().problems(COMPOSER.compose([*words, "+distillation@distillation.methods.hint=hint"]))
    (refused,) = Validator().problems(COMPOSER.compose([*words, "+distillation@distillation.methods.sp=sp"]))
    assert TEACHABLE in str(refused)
    inside = [*words, "+distillation@distillation.methods.at=at", "+distillation.methods.at.unlabelled_ratio=1"]
    assert "all methods of a sum learn from the same" in str(Validator().problems(COMPOSER.compose(inside))[0])
