"""Mean Teacher: its loss by hand, that the average gets no gradient, and that without decay it is the Π-model."""

from copy import deepcopy

import pytest
import torch
from each_method import PAIR
from loops import prepared
from pupils import Pupil, cross_entropy_by_hand, few_labels, made, probabilities, terms_of

from kdexp.data.batch import Batch, Unlabelled
from kdexp.distillation.base import Progress
from kdexp.distillation.mean_teacher import MeanTeacher
from kdexp.distillation.pi_model import PiModel
from kdexp.training.averaging import MovingAverage

RAMP = {"ramp": 0.4, "ramp_shape": "linear"}
EARLY = Progress(epoch=1.0, epochs=10, step=10)


def other_network():
    """A network that differs from a pupil's own."""
    network = deepcopy(Pupil().network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.3
    return network


@pytest.mark.parametrize("seed", range(5))
def test_the_loss_is_the_mean_squared_distance_from_the_average(seed):
    batch, average = few_labels("weak", "weak2", seed=10 * seed), other_network()
    found, pupil = terms_of(made(MeanTeacher, **RAMP, weight=50.0), batch, Pupil(average=average), EARLY)
    views = batch.unlabelled.views
    total = 0.0
    for ours, theirs in zip(pupil.network(views["weak"]).tolist(), average(views["weak2"]).tolist(), strict=True):
        total += sum((p - q) ** 2 for p, q in zip(probabilities(ours), probabilities(theirs), strict=True))
    images, classes = pupil.network(views["weak"]).shape
    assert float(found["consistency"].detach()) == pytest.approx(50 * 0.25 * total / (images * classes), abs=1e-9)
    labelled = pupil.network(batch.image).detach()
    assert float(found["ce"].detach()) == pytest.approx(cross_entropy_by_hand(labelled, batch.label.tolist()), abs=1e-9)
    assert not pupil.joint and len(pupil.asked) == 2, "the student answers to the labelled images and one view"


def test_no_gradient_reaches_the_average():
    average = other_network()
    found, pupil = terms_of(made(MeanTeacher, **RAMP), few_labels("weak", "weak2"), Pupil(average=average))
    found["consistency"].backward()
    assert all(parameter.grad is None for parameter in average.parameters())
    assert any(parameter.grad.abs().sum() > 0 for parameter in pupil.network.parameters())


@pytest.fixture
def learners(make_experiment):
    """A learner by Mean Teacher whose average has no memory, and one by the Π-model, equal networks with batch norms."""
    experiment = make_experiment(*PAIR, "distillation=none", "optimizer=sgd", "optimizer.momentum=0.9", "optimizer.lr=0.05")
    found = []
    for method in (made(MeanTeacher, **RAMP), made(PiModel, both_branches=False, **RAMP)):
        (learner,), _ = prepared(experiment, "baseline")
        learner.distiller = method
        found.append(learner)
    found[0].average = MovingAverage(found[0].model, 0.0, warm_up=False)
    return found


def test_without_decay_it_is_the_pi_model_bitwise(learners):
    generator = torch.Generator().manual_seed(0)
    for learner in learners:
        learner.train()
    for step in range(4):
        image, *views = torch.rand(3, 6, 1, 8, 8, generator=generator)
        label = torch.randint(10, (6,), generator=generator)
        unlabelled = Unlabelled(torch.arange(6), dict(zip(("weak", "weak2"), views, strict=True)))
        for learner in learners:
            learner.step(Batch(image, label, label, unlabelled=unlabelled), None, Progress(step, 4, step))
            assert not learner.failure, learner.failure
    ours, theirs = (learner.model.state_dict() for learner in learners)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs if "num_batches" not in name)
    traces = [torch.stack(learner.log.trace) for learner in learners]
    assert torch.equal(*traces) and traces[0][1:, 1].min() > 0
