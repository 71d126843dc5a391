"""The Π-model: its loss by hand, its branches, and both shapes of its ramp."""

import math

import pytest
from pupils import Pupil, cross_entropy_by_hand, few_labels, made, probabilities, terms_of

from kdexp.distillation.base import Progress
from kdexp.distillation.pi_model import PiModel

OWN = {"both_branches": False, "ramp": 0.0, "ramp_shape": "linear"}


def pi_model(**changed):
    return made(PiModel, **OWN | changed)


def distance_by_hand(ours, theirs):
    total = 0.0
    for own, other in zip(ours.tolist(), theirs.tolist(), strict=True):
        total += sum((p - q) ** 2 for p, q in zip(probabilities(own), probabilities(other), strict=True))
    return total / ours.numel()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("both_branches", [False, True])
def test_the_loss_is_the_mean_squared_distance_of_both_predictions(both_branches, seed):
    batch = few_labels("weak", "weak2", seed=10 * seed)
    found, pupil = terms_of(pi_model(both_branches=both_branches, weight=7.0), batch)
    labelled, first, second = (pupil.network(image).detach() for image in (batch.image, *batch.unlabelled.views.values()))
    assert float(found["consistency"].detach()) == pytest.approx(7 * distance_by_hand(first, second), abs=1e-9)
    assert float(found["ce"].detach()) == pytest.approx(cross_entropy_by_hand(labelled, batch.label.tolist()), abs=1e-9)
    assert not pupil.joint


@pytest.mark.parametrize("both_branches", [False, True])
def test_gradients_pass_through_the_branches_that_are_asked_for(both_branches):
    batch = few_labels("weak", "weak2")
    for image in batch.unlabelled.views.values():
        image.requires_grad_()
    found, _ = terms_of(pi_model(both_branches=both_branches), batch)
    found["consistency"].backward()
    assert batch.unlabelled.views["weak"].grad.abs().sum() > 0
    assert (batch.unlabelled.views["weak2"].grad is not None) == both_branches


def test_one_view_twice_has_no_distance():
    batch = few_labels("weak", "weak2")
    batch.unlabelled.views["weak2"] = batch.unlabelled.views["weak"].clone()
    found, _ = terms_of(pi_model(both_branches=True), batch)
    assert float(found["consistency"].detach()) == 0.0


@pytest.mark.parametrize(
    ("shape", "ramp", "epoch", "expected"),
    [
        ("linear", 0.4, 0.0, 0.0),
        ("linear", 0.4, 10.0, 0.25),
        ("linear", 0.4, 60.0, 1.0),
        ("linear", 0.0, 0.0, 1.0),
        ("gaussian", 0.4, 0.0, math.exp(-5)),
        ("gaussian", 0.4, 10.0, math.exp(-5 * 0.75**2)),
        ("gaussian", 0.4, 60.0, 1.0),
    ],
)
def test_the_weight_rises_over_a_share_of_the_training(shape, ramp, epoch, expected):
    method, progress = pi_model(ramp=ramp, ramp_shape=shape), Progress(epoch, 100, 0)
    assert method.scheduled(progress)["ramp"] == pytest.approx(expected)
    batch, pupil = few_labels("weak", "weak2"), Pupil()
    full = terms_of(pi_model(), batch, pupil, progress)[0]["consistency"]
    found = terms_of(method, batch, pupil, progress)[0]["consistency"]
    assert float(found.detach()) == pytest.approx(expected * float(full.detach()))
