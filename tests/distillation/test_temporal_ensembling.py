"""Temporal ensembling: its averages and its loss by hand over several epochs, and their memory."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from loss_bench import probe, random
from pupils import CLASSES, Pupil, few_labels, made, probabilities, schedule, terms_of

from kdexp.data.batch import Unlabelled
from kdexp.distillation.base import Progress
from kdexp.distillation.temporal_ensembling import TemporalEnsembling
from kdexp.network.capture import Outputs

IMAGES = 8
OWN = {"momentum": 0.6, "ramp": 0.0}


def ensembling(**changed):
    method = made(TemporalEnsembling, **OWN | changed)
    method.setup(replace(probe(Outputs(random(2, CLASSES))), unlabelled=IMAGES))
    return method.double()


def at(epoch):
    return Progress(epoch + 0.5, 10, 10 * epoch)


def see(method, index, logits, epoch):
    """Shows the method the logits of these images; returns its term."""
    schedule(method, at(epoch))
    found = method.consistency(Pupil(), Unlabelled(torch.tensor(index), {}), {"weak": logits}, at(epoch))
    return float(found["consistency"])


def test_the_loss_of_every_epoch_equals_the_papers_algorithm():
    """With each image once per epoch: Z ← αZ + (1 − α)z after the epoch, and the target Z / (1 − αᵗ)."""
    method, average = ensembling(), [[0.0] * CLASSES for _ in range(IMAGES)]
    for epoch in range(5):
        answers = random(IMAGES, CLASSES, seed=epoch)
        order = torch.randperm(IMAGES, generator=torch.Generator().manual_seed(epoch)).tolist()
        for index in (order[:3], order[3:]):
            distance = 0.0
            for row in index:
                target = [value / (1 - 0.6**epoch) for value in average[row]] if epoch else []
                answer = probabilities(answers[row].tolist())
                distance += sum((p - q) ** 2 for p, q in zip(answer, target, strict=False)) / (CLASSES * len(index))
            assert see(method, index, answers[index], epoch) == pytest.approx(distance if epoch else 0.0, abs=1e-9)
        for row, answer in enumerate(answers.tolist()):
            average[row] = [0.6 * z + 0.4 * p for z, p in zip(average[row], probabilities(answer), strict=True)]


def test_an_image_seen_twice_in_an_epoch_is_taken_in_once_with_its_last_prediction():
    once, twice = ensembling(), ensembling()
    first, last, later = (random(1, CLASSES, seed=seed) for seed in range(3))
    see(twice, [4], first, 0)
    for method in (once, twice):
        see(method, [4], last, 0)
    assert see(once, [4], later, 1) == pytest.approx(see(twice, [4], later, 1), abs=1e-12)
    assert torch.equal(once.average, twice.average)
    assert see(once, [4], last, 1) == pytest.approx(0.0, abs=1e-12)  # the target is the only prediction so far


def test_epochs_without_an_image_change_nothing():
    method = ensembling()
    see(method, [2], first := random(1, CLASSES), 0)
    assert see(method, [2], first, 4) == pytest.approx(0.0, abs=1e-12)
    assert method.epochs_averaged.tolist() == [0, 0, 1, 0, 0, 0, 0, 0]


def test_images_without_a_target_count_as_zero():
    method = ensembling()
    see(method, [0], random(1, CLASSES), 0)
    both = see(copy.deepcopy(method), [0, 1], random(2, CLASSES, seed=5), 1)
    alone = see(method, [0], random(2, CLASSES, seed=5)[:1], 1)
    assert both == pytest.approx(alone / 2) and alone > 0


@pytest.mark.parametrize(("epoch", "expected"), [(0, 0.0), (1, math.exp(-5 * 0.75**2)), (3, math.exp(-5 * 0.25**2)), (7, 1.0)])
def test_the_weight_rises_by_epochs_from_zero_in_the_first(epoch, expected):
    method = ensembling(ramp=0.4)
    steps = [method.scheduled(Progress(epoch + share, 10, 0))["ramp"] for share in (0.01, 0.99)]
    assert steps == pytest.approx([expected] * 2)


def test_the_first_epoch_has_the_weight_0_and_a_finite_gradient():
    method, batch, pupil = ensembling(), few_labels("weak"), Pupil()
    found, _ = terms_of(method, batch, pupil, at(0))
    sum(found.values()).backward()
    assert float(found["consistency"].detach()) == 0.0 and pupil.joint
    assert all(p.grad.isfinite().all() for p in pupil.network.parameters())


def test_the_memory_is_stored_and_goes_on_from_there():
    whole, resumed = ensembling(), ensembling()
    for epoch in range(2):
        see(whole, [0, 1, 2], random(3, CLASSES, seed=epoch), epoch)
    resumed.load_state_dict(whole.state_dict())
    assert see(whole, [1, 2], random(2, CLASSES, seed=9), 2) == see(resumed, [1, 2], random(2, CLASSES, seed=9), 2) > 0
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())
