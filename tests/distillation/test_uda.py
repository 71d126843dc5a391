"""UDA: its loss and its training signal annealing, written a second time by hand."""

import math

import pytest
import torch
from loss_bench import random
from pupils import HALF_WAY, Pupil, cross_entropy_by_hand, few_labels, made, probabilities, schedule, terms_of

from kdexp.distillation.base import Progress
from kdexp.distillation.fixmatch import FixMatch
from kdexp.distillation.uda import UDA

OWN = {"threshold": 0.5, "temperature": 0.4, "tsa": None, "tsa_of": "largest"}


def uda(**changed):
    return made(UDA, **OWN | changed)


def loss_by_hand(weak, strong, threshold, temperature):
    """Returns the loss and the share of images that count."""
    total = counted = 0.0
    for before, after in zip(weak.tolist(), strong.tolist(), strict=True):
        if max(probabilities(before)) < threshold:
            continue
        counted += 1
        target, answer = probabilities([value / temperature for value in before]), probabilities(after)
        total -= sum(q * math.log(p) for q, p in zip(target, answer, strict=True))
    return total / len(weak), counted / len(weak)


@pytest.mark.parametrize("seed", range(5))
def test_the_loss_is_that_of_confident_images(seed):
    batch = few_labels("weak", "strong", seed=10 * seed)
    found, pupil = terms_of(uda(threshold=0.45), batch)
    logits = [pupil.network(image).detach() for image in (batch.image, *batch.unlabelled.views.values())]
    loss, mask = loss_by_hand(*logits[1:], 0.45, 0.4)
    assert float(found["uda"].detach()) == pytest.approx(loss, abs=1e-9)
    assert float(pupil.notes["mask"]) == pytest.approx(mask)
    assert float(found["ce"].detach()) == pytest.approx(cross_entropy_by_hand(logits[0], batch.label.tolist()), abs=1e-9)
    assert pupil.joint


def test_some_images_count_and_others_do_not():
    assert 0 < loss_by_hand(random(50, 3), random(50, 3, seed=1), 0.5, 1)[1] < 1


def consistency(weak, strong, **changed):
    return uda(**changed).consistency(Pupil(), None, {"weak": weak, "strong": strong}, HALF_WAY)["uda"]


@pytest.mark.parametrize("seed", range(5))
def test_a_cold_temperature_makes_it_fixmatch(seed):
    batch, pupil = few_labels("weak", "strong", ratio=7, seed=10 * seed), Pupil()
    ours, _ = terms_of(uda(threshold=0.4, temperature=1e-6), batch, pupil)
    mask = pupil.notes["mask"]
    theirs, _ = terms_of(made(FixMatch, threshold=0.4), batch, pupil)
    pairs = zip(ours.values(), theirs.values(), strict=True)
    assert all(float(own.detach()) == pytest.approx(float(other.detach()), abs=1e-9) for own, other in pairs)
    assert torch.equal(mask, pupil.notes["mask"]) and 0 < float(mask) < 1


def test_the_weak_view_has_no_gradient():
    weak, strong = random(6, 3).requires_grad_(), random(6, 3, seed=1).requires_grad_()
    consistency(weak, strong, threshold=0.0).backward()
    assert weak.grad is None and strong.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("tsa", "start", "middle"), [("linear", 0, 0.5), ("log", 0, 1 - math.exp(-2.5)), ("exp", math.exp(-5), math.exp(-2.5))]
)
def test_annealing_lets_go_by_its_schedule(tsa, start, middle):
    at = [uda(tsa=tsa).scheduled(Progress(epoch, 10, 0))["annealed"] for epoch in (0.0, 5.0, 10.0)]
    assert at[:2] == pytest.approx([start, middle]) and at[2] == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("tsa_of", ["largest", "label"])
def test_annealing_leaves_out_the_labelled_images_that_are_sure(tsa_of):
    logits, labels = random(30, 3), [number % 3 for number in range(30)]
    method = uda(tsa="linear", tsa_of=tsa_of)
    schedule(method)
    limit = 1 / 3 + 0.5 * (1 - 1 / 3)
    total, left = 0.0, 0
    for row, label in zip(logits.tolist(), labels, strict=True):
        p = probabilities(row)
        if (max(p) if tsa_of == "largest" else p[label]) <= limit:
            total, left = total - math.log(p[label]), left + 1
    assert 0 < left < 30
    found = float(method.annealed_loss(logits, torch.tensor(labels)))
    assert found == pytest.approx(total / (30 if tsa_of == "largest" else left), abs=1e-9)


def test_annealing_of_labels_that_are_all_sure_gives_no_loss():
    method = uda(tsa="linear", tsa_of="label")
    schedule(method)
    sure = torch.tensor([[50.0, 0.0], [0.0, 50.0]], dtype=torch.float64)
    assert float(method.annealed_loss(sure, torch.tensor([0, 1]))) == 0.0


def test_the_annealed_loss_is_the_one_that_is_trained():
    batch, method = few_labels("weak", "strong"), uda(tsa="exp", ce_weight=2.0)
    found, pupil = terms_of(method, batch)
    expected = 2 * method.annealed_loss(pupil.network(batch.image), batch.label)
    assert torch.equal(found["ce"], expected)


def test_the_table_names_its_temperature():
    assert uda(weight=2.0).describe() == "CE + 2 UDA, T=0.4"
