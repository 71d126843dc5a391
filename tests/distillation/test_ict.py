"""ICT: its loss by hand with every choice of its sources, and its identity with Mean Teacher's loss."""

import pytest
import torch
import torch.nn.functional as F
from loss_bench import random
from pupils import CLASSES, Pupil, cross_entropy_by_hand, few_labels, made, probabilities, terms_of
from torch import nn

from kdexp.distillation import ict as module
from kdexp.distillation import mixing
from kdexp.distillation.ict import ICT
from kdexp.distillation.mixing import draw_order, draw_shares

OWN = {
    "beta": 0.5,
    "mix_per": "image",
    "mostly_first": True,
    "partner": "reversed",
    "mixed_targets": "probabilities",
    "label_beta": None,
    "ramp": 0.0,
}
AUTHORS = {"beta": 1.0, "mix_per": "batch", "mostly_first": False, "partner": "random", "mixed_targets": "logits"}


def ict(**changed):
    return made(ICT, **OWN | changed)


def pupil_with_average():
    torch.manual_seed(7)
    return Pupil(average=nn.Sequential(nn.Flatten(), nn.Linear(4, CLASSES)).double())


def combined(share, ours, theirs):
    return [share * a + (1 - share) * b for a, b in zip(ours, theirs, strict=True)]


def loss_by_hand(image, pupil, shares, partners, knobs):
    total = 0.0
    answers = pupil.average(image).tolist()
    for number, (share, other) in enumerate(zip(shares, partners, strict=True)):
        share = max(share, 1 - share) if knobs["mostly_first"] else share
        mixed = combined(share, image[number].flatten().tolist(), image[other].flatten().tolist())
        answer = probabilities(pupil.network(torch.tensor(mixed, dtype=torch.float64).view(1, 1, 2, 2))[0].tolist())
        if knobs["mixed_targets"] == "logits":
            target = probabilities(combined(share, answers[number], answers[other]))
        else:
            target = combined(share, probabilities(answers[number]), probabilities(answers[other]))
        total += sum((p - q) ** 2 for p, q in zip(answer, target, strict=True))
    return total / (len(image) * CLASSES)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("knobs", [OWN, OWN | AUTHORS], ids=["fixmatch", "authors"])
def test_the_loss_equals_a_sum_written_by_hand(monkeypatch, seed, knobs):
    batch, pupil = few_labels("weak", seed=10 * seed), pupil_with_average()
    torch.manual_seed(seed)
    shares, order = draw_shares(knobs["beta"], random(6), knobs["mix_per"]), draw_order(random(6))
    monkeypatch.setattr(module, "draw_shares", lambda *_: shares)
    monkeypatch.setattr(module, "draw_order", lambda _: order)
    found, _ = terms_of(ict(weight=50.0, **{name: knobs[name] for name in AUTHORS}), batch, pupil)
    partners = order.tolist() if knobs["partner"] == "random" else list(range(5, -1, -1))
    loss = loss_by_hand(batch.unlabelled.views["weak"], pupil, shares.tolist(), partners, knobs)
    assert float(found["ict"].detach()) == pytest.approx(50 * loss, abs=1e-9)
    by_hand = cross_entropy_by_hand(pupil.network(batch.image).detach(), batch.label.tolist())
    assert float(found["ce"].detach()) == pytest.approx(by_hand, abs=1e-9)
    assert not pupil.joint


@pytest.mark.parametrize("mixed_targets", ["probabilities", "logits"])
def test_with_the_share_1_it_is_the_distance_to_the_averages_prediction(monkeypatch, mixed_targets):
    monkeypatch.setattr(module, "draw_shares", lambda beta, like, mix_per: torch.ones(len(like), dtype=like.dtype))
    batch, pupil = few_labels("weak"), pupil_with_average()
    found, _ = terms_of(ict(mixed_targets=mixed_targets), batch, pupil)
    image = batch.unlabelled.views["weak"]
    expected = F.mse_loss(pupil.network(image).softmax(1), pupil.average(image).softmax(1))
    assert float(found["ict"].detach()) == pytest.approx(float(expected.detach()), abs=1e-12)


def test_the_average_has_no_gradient_and_the_student_has():
    pupil = pupil_with_average()
    found, _ = terms_of(ict(), few_labels("weak"), pupil)
    found["ict"].backward()
    assert all(p.grad is None for p in pupil.average.parameters())
    assert all(p.grad.abs().sum() > 0 for p in pupil.network.parameters())


def test_labelled_images_are_mixed_if_asked(monkeypatch):
    torch.manual_seed(0)
    shares, order = draw_shares(1.0, random(3), "batch"), draw_order(random(3))
    monkeypatch.setattr(mixing, "draw_shares", lambda *_: shares)
    monkeypatch.setattr(mixing, "draw_order", lambda _: order)
    batch, pupil = few_labels("weak"), pupil_with_average()
    found, _ = terms_of(ict(label_beta=1.0, mix_per="batch"), batch, pupil)
    share, loss = max(float(shares[0]), 1 - float(shares[0])), 0.0
    flat = batch.image.flatten(1).tolist()
    for number, other in enumerate(order.tolist()):
        mixed = combined(share, flat[number], flat[other])
        logits = pupil.network(torch.tensor(mixed, dtype=torch.float64).view(1, 1, 2, 2)).detach()
        of_own, of_other = (cross_entropy_by_hand(logits, [int(batch.label[at])]) for at in (number, other))
        loss += (share * of_own + (1 - share) * of_other) / 3
    assert float(found["ce"].detach()) == pytest.approx(loss, abs=1e-9)


def test_it_needs_a_moving_average():
    assert ICT.needs_average
