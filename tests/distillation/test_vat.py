"""VAT: its direction and both its terms by hand, the direction's length, and its precision."""

import math
from dataclasses import replace

import pytest
import torch
from loops import prepared
from loss_bench import random
from pupils import CLASSES, Pupil, cross_entropy_by_hand, few_labels, made, probabilities, terms_of
from torch import nn

from kdexp.device.precision import Precision
from kdexp.distillation.base import soft_target_loss
from kdexp.distillation.vat import VAT, to_unit_length

OWN = {"epsilon": 0.7, "xi": 0.1, "iterations": 2, "entropy_weight": 0.5, "ramp": 0.0}


def vat(**changed):
    return made(VAT, **OWN | changed)


def linear_pupil():
    torch.manual_seed(1)
    return Pupil(nn.Sequential(nn.Flatten(), nn.Linear(4, CLASSES)).double())


def scaled(vector, length):
    return [value * length / math.hypot(*vector) for value in vector]


def logits_by_hand(layer, x):
    pairs = zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
    return [sum(w * value for w, value in zip(row, x, strict=True)) + bias for row, bias in pairs]


def moved_by_hand(layer, x, direction):
    """Returns x moved along the gradient of the divergence: of a linear network Wᵀ(q − p), q being the shifted prediction."""
    here = probabilities(logits_by_hand(layer, x))
    for _ in range(OWN["iterations"]):
        shift = scaled(direction, OWN["xi"])
        there = probabilities(logits_by_hand(layer, [a + b for a, b in zip(x, shift, strict=True)]))
        differences = [q - p for p, q in zip(here, there, strict=True)]
        columns = zip(*layer.weight.tolist(), strict=True)
        direction = [sum(w * d for w, d in zip(column, differences, strict=True)) for column in columns]
    return [a + b for a, b in zip(x, scaled(direction, OWN["epsilon"]), strict=True)]


@pytest.mark.parametrize("seed", range(3))
def test_both_terms_equal_sums_written_by_hand(seed):
    batch, pupil = few_labels("weak", seed=10 * seed), linear_pupil()
    torch.manual_seed(seed)
    start = torch.randn_like(batch.unlabelled.views["weak"]).flatten(1).tolist()
    torch.manual_seed(seed)
    found, _ = terms_of(vat(weight=3.0), batch, pupil)
    layer, divergence, entropy = pupil.network[1], 0.0, 0.0
    images = batch.unlabelled.views["weak"].flatten(1).tolist()
    for x, direction in zip(images, start, strict=True):
        p = probabilities(logits_by_hand(layer, x))
        q = probabilities(logits_by_hand(layer, moved_by_hand(layer, x, direction)))
        divergence += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)) / len(images)
        entropy -= sum(a * math.log(a) for a in p) / len(images)
    assert float(found["vat"].detach()) == pytest.approx(3 * divergence, abs=1e-9)
    assert float(found["entropy"].detach()) == pytest.approx(0.5 * entropy, abs=1e-9)
    by_hand = cross_entropy_by_hand(pupil.network(batch.image).detach(), batch.label.tolist())
    assert float(found["ce"].detach()) == pytest.approx(by_hand, abs=1e-9)
    assert not pupil.joint


def test_every_image_is_moved_by_epsilon():
    image = random(5, 1, 2, 2)
    lengths = vat(epsilon=6.0).perturbation(Pupil(), image).flatten(1).norm(dim=1)
    assert lengths.tolist() == pytest.approx([6.0] * 5)


def test_it_finds_a_worse_direction_than_chance_does():
    image, pupil = random(20, 1, 2, 2), Pupil()
    found, drawn = vat(epsilon=0.5).perturbation(pupil, image), 0.5 * to_unit_length(random(20, 1, 2, 2, seed=9))
    here = pupil.network(image)
    by_found, by_chance = (soft_target_loss(pupil.network(image + moved), here, 1.0) for moved in (found, drawn))
    assert by_found > 1.5 * by_chance


def test_lengths_survive_gradients_whose_squares_are_zero():
    tiny = torch.tensor([[3e-30, 4e-30], [0.0, 0.0], [3.0, 4.0]])
    assert to_unit_length(tiny).tolist() == [pytest.approx([0.6, 0.8]), [0.0, 0.0], pytest.approx([0.6, 0.8])]


def test_only_the_moved_prediction_and_the_entropy_have_gradients():
    batch, pupil = few_labels("weak"), Pupil()
    image = batch.unlabelled.views["weak"].requires_grad_()
    found, _ = terms_of(vat(epsilon=0.0, entropy_weight=0.0), batch, pupil)
    assert "entropy" not in found and float(found["vat"].detach()) == pytest.approx(0.0, abs=1e-15)
    found["vat"].backward()
    assert image.grad.abs().max() < 1e-15  # at the image itself, the divergence is smallest
    assert all(p.grad.abs().max() < 1e-15 for p in pupil.network.parameters())


def test_the_entropy_is_not_ramped():
    found, _ = terms_of(vat(ramp=1.0), few_labels("weak"))
    whole, _ = terms_of(vat(), few_labels("weak"))
    assert torch.equal(found["entropy"], whole["entropy"])


NORMED = ("student=resnet8", "student.widths=[4,4,6,8]")


def learner_at(make_experiment, precision):
    (learner,), _ = prepared(make_experiment(*NORMED), "baseline")
    learner.precision = precision
    learner.train()
    return learner


def test_its_direction_is_that_of_fp32_and_near_the_exact_one_whatever_the_precision(make_experiment):
    image, found = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)), {}
    for name in ("fp32", "bf16"):
        learner = learner_at(make_experiment, Precision(name, torch.device("cpu")))
        torch.manual_seed(0)
        found[name] = vat(epsilon=1.0, xi=1e-3).perturbation(learner, image)
    assert torch.equal(found["fp32"], found["bf16"])
    torch.manual_seed(0)
    start = torch.randn_like(image).double()
    exact = direction_in_float64(learner.model.double(), image.double(), start)
    assert nn.functional.cosine_similarity(found["fp32"].flatten(1), exact.float().flatten(1)).min() > 0.99


def direction_in_float64(model, image, start, iterations=OWN["iterations"]):
    direction = to_unit_length(start)
    here = model(image).detach().log_softmax(1)
    for _ in range(iterations):
        small = (1e-3 * direction).requires_grad_()
        there = model(image + small).log_softmax(1)
        distance = (here.exp() * (here - there)).sum()
        direction = to_unit_length(*torch.autograd.grad(distance, small))
    return direction


def test_the_precision_comes_back_after_exact_passes(make_experiment, monkeypatch):
    learner = learner_at(make_experiment, Precision("bf16", torch.device("cpu")))
    usual, names = learner.precision, []
    monkeypatch.setattr(Precision, "set", lambda self: names.append(self.name))
    with pytest.raises(RuntimeError), learner.exactly():
        assert learner.precision == replace(usual, name="fp32")
        raise RuntimeError
    assert learner.precision is usual and names == ["fp32", "bf16"]


def test_unlabelled_images_change_no_running_statistics(make_experiment):
    learner = learner_at(make_experiment, Precision("fp32", torch.device("cpu")))
    before = {name: value.clone() for name, value in learner.model.named_buffers() if "running" in name}
    vat().perturbation(learner, torch.rand(4, 1, 8, 8))
    assert all(torch.equal(value, before[name]) for name, value in learner.model.named_buffers() if "running" in name)
    assert all(parameter.grad is None for parameter in learner.model.parameters())


def test_the_table_names_both_terms():
    assert vat(weight=0.3).describe() == "CE + 0.3 VAT + 0.5 entropy"
