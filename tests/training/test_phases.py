"""Methods whose steps change during training: what a phase does not read is not computed, wherever a training is cut."""

from copy import deepcopy

import pytest
import torch
from each_method import FEW_LABELS, PAIR
from loops import Silent, fresh

from kdexp.teacher.frozen import Teacher
from kdexp.training.loop import Steps, train

FEATURES = ("distillation=feature_pretraining", "distillation.label_free=0.5", "dataset.crop_padding=1")
MPL = ("distillation=mpl", *FEW_LABELS, "distillation.unlabelled_ratio=2", "averaging=ema", "distillation.student_wait=0")
IN_PHASES = {
    "classifier": (*FEATURES, "distillation.finetune=classifier", "averaging=ema"),
    "mpl": (*MPL, "distillation.finetune_epochs=2", "distillation.finetune_lr=0.01"),
}
"""Three epochs: the features' phases change in the middle of the second, that of MPL after the first."""


@pytest.fixture
def made(make_experiment):
    """A learner with its teacher, and its experiment."""

    def make(*words, roles=("distilled",)):
        experiment = make_experiment(*PAIR, "batch_size=16", *words)
        learners, teacher = fresh(experiment, *roles)
        return experiment, learners, teacher if any(one.distiller.uses_teacher for one in learners) else None

    return make


def trained(experiment, learners, teacher, keep=lambda learner: None, epochs=3):
    split = experiment.data.student_train
    train(learners, Steps(split, teacher, epochs, 16, 0, 4), validation=None, watch=Silent(), keep=keep)
    assert not any(learner.failure for learner in learners), learners[0].traceback
    return learners


def assert_same(ours, theirs):
    mine, others = ours.state_dict(), theirs.state_dict()
    assert ours.history == theirs.history and mine.keys() == others.keys()
    assert [name for name in mine if not torch.equal(mine[name], others[name])] == []


@pytest.mark.slow
@pytest.mark.parametrize("words", IN_PHASES.values(), ids=IN_PHASES)
def test_a_training_resumed_before_or_inside_the_last_phase_is_the_whole_one(made, words):
    kept = []
    (whole,) = trained(*made(*words), keep=lambda learner: kept.append(deepcopy(learner.progress())))
    for progress in kept[:2]:
        experiment, (learner,), teacher = made(*words)
        learner.resume(progress)
        assert_same(*trained(experiment, [learner], teacher), whole)


@pytest.mark.slow
@pytest.mark.parametrize("words", IN_PHASES.values(), ids=IN_PHASES)
def test_phases_of_learners_trained_together_are_those_of_each_alone(made, words):
    experiment, (one, other), teacher = made(*words, roles=("distilled", "baseline"))
    trained(experiment, [one, other], teacher)
    assert_same(*trained(*made(*words)), one)
    assert_same(*trained(*made(*words, roles=("baseline",))), other)


@pytest.fixture
def passes(monkeypatch):
    """The number of images in each pass of a teacher."""
    found, ask = [], Teacher.ask
    monkeypatch.setattr(Teacher, "ask", lambda self, image: found.append(len(image)) or ask(self, image))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("more", "steps"), [((), 6), (("distillation.kd_weight=1",), 12)])
def test_the_teacher_runs_where_a_term_reads_it(made, passes, more, steps):
    experiment, learners, teacher = made(*FEATURES, *more)
    trained(experiment, learners, teacher)
    assert passes == [16] * steps, "half of three epochs of four steps, unless soft targets are learned after them"


@pytest.mark.slow
def test_the_teacher_runs_for_others_that_read_it(made, passes):
    (experiment, first, teacher), (_, second, _) = made(*FEATURES), made("distillation=kd", "dataset.crop_padding=1")
    trained(experiment, [*first, *second], teacher)
    assert passes == [16] * 12


def frozen_and_trained(learner):
    """Weights and statistics of a network before its classifier, and those of the classifier."""
    state, name = deepcopy(learner.model.state_dict()), learner.model.landmarks.classifier
    return [{key: value for key, value in state.items() if key.startswith(name) is part} for part in (False, True)]


@pytest.mark.slow
def test_the_classifier_alone_is_trained_on_frozen_features(made):
    """Without weight decay, momentum or new statistics for all before it; in the phase before that, it is left as it was."""
    experiment, (learner,), teacher = made(
        *FEATURES, "distillation.finetune=classifier", "optimizer=sgd", "optimizer.weight_decay=0.1"
    )
    initial = frozen_and_trained(learner)
    seen = []
    step = learner.step

    def watched(batch, outputs, progress):
        if learner.distiller.phase(progress) is False and len(seen) == 0:
            seen.append(frozen_and_trained(learner))
        step(batch, outputs, progress)

    learner.step = watched
    trained(experiment, [learner], teacher)
    (before,), after = seen, frozen_and_trained(learner)
    same = lambda ours, theirs: [torch.equal(ours[name], theirs[name]) for name in ours]  # noqa: E731
    assert not all(same(initial[0], before[0])) and all(same(initial[1], before[1]))
    assert all(same(before[0], after[0])) and not any(same(before[1], after[1]))
    assert all(parameter.requires_grad for parameter in learner.model.parameters()) and learner.model.training
    first, second, third = learner.history
    assert first["ce"] == 0 < first["feature_cosine"] and third["feature_cosine"] == 0 < third["ce"]
    assert second["ce"] > 0 and second["feature_cosine"] > 0


@pytest.mark.slow
def test_mpls_teacher_stays_as_it_is_while_the_student_is_fine_tuned(made):
    """The student's step is that of the cross-entropy with the labels, at its own learning rate."""
    experiment, (learner,), _ = made(*MPL, "distillation.finetune_epochs=1", "distillation.finetune_lr=0.25", "optimizer=sgd")
    states, read, update = [], [], learner.distiller.update

    def watched(trainee, batch, teacher, progress):
        read.append(batch.unlabelled is not None)
        states.append(
            (deepcopy(learner.distiller.state_dict()), deepcopy(learner.model), batch, deepcopy(learner.optimizer.state_dict()))
        )
        return update(trainee, batch, teacher, progress)

    learner.distiller.update = watched
    trained(experiment, [learner], None, epochs=2)
    assert read == [True] * 4 + [False] * 4, "unlabelled images are not even made where nothing reads them"
    teacher, network, batch, optimizer = states[-1]
    assert all(torch.equal(value, learner.distiller.state_dict()[name]) for name, value in teacher.items())
    assert any(not torch.equal(value, teacher[name]) for name, value in states[1][0].items())
    loss = torch.nn.functional.cross_entropy(network(batch.image), batch.label)
    gradients = torch.autograd.grad(loss, list(network.parameters()))
    for ours, gradient in zip(learner.model.parameters(), gradients, strict=True):
        assert torch.equal(ours.grad, gradient)
    assert {group["lr"] for group in optimizer["param_groups"] if group.get("paced")} == {0.25}
    first, second = learner.history
    assert first["finetuning"] == 0 < second["finetuning"] == second["loss"] and second["ce"] == second["feedback"] == 0
