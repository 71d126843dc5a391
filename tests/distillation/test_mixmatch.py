"""MixMatch: its guesses, its mixed images and its loss by hand; and the identities of mixing."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loss_bench import few, random
from pupils import Pupil, few_labels, made, probabilities, terms_of

from kdexp.distillation import mixing
from kdexp.distillation.mixing import draw_order, draw_shares, mix_up, sharpen
from kdexp.distillation.mixmatch import MixMatch

OWN = {"beta": 0.5, "mix_per": "batch", "temperature": 0.5, "ramp": 0.0}


def mixmatch(**changed):
    return made(MixMatch, **OWN | changed)


def combined(share, ours, theirs):
    return [share * a + (1 - share) * b for a, b in zip(ours, theirs, strict=True)]


def guess_by_hand(network, views, temperature):
    found = []
    for row in zip(*(network(view).tolist() for view in views), strict=True):
        mean = [sum(values) / len(row) for values in zip(*map(probabilities, row), strict=True)]
        powers = [value ** (1 / temperature) for value in mean]
        found.append([power / sum(powers) for power in powers])
    return found


def terms_by_hand(batch, network, shares, order):
    """Returns the cross-entropy and the squared distance, with these draws."""
    views = list(batch.unlabelled.views.values())
    guessed = guess_by_hand(network, views, OWN["temperature"])
    targets = [[float(label == k) for k in range(3)] for label in batch.label.tolist()] + guessed + guessed
    images = torch.cat([batch.image, *views]).flatten(1).tolist()
    ce = distance = 0.0
    labelled = len(batch.label)
    for number, (share, partner) in enumerate(zip(shares, order, strict=True)):
        share = max(share, 1 - share)
        image = torch.tensor(combined(share, images[number], images[partner]), dtype=torch.float64).view(1, 1, 2, 2)
        target = combined(share, targets[number], targets[partner])
        answer = probabilities(network(image)[0].tolist())
        if number < labelled:
            ce -= sum(q * math.log(p) for q, p in zip(target, answer, strict=True)) / labelled
        else:
            distance += sum((p - q) ** 2 for q, p in zip(target, answer, strict=True)) / (3 * (len(order) - labelled))
    return ce, distance


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("mix_per", ["batch", "image"])
def test_the_terms_equal_sums_written_by_hand(monkeypatch, seed, mix_per):
    batch = few_labels("weak", "weak2", seed=10 * seed)
    shares, order = draw_shares(0.5, random(15), mix_per), draw_order(random(15))
    monkeypatch.setattr(mixing, "draw_shares", lambda *_: shares)
    monkeypatch.setattr(mixing, "draw_order", lambda _: order)
    found, pupil = terms_of(mixmatch(mix_per=mix_per, weight=75.0), batch)
    ce, distance = terms_by_hand(batch, pupil.network, shares.tolist(), order.tolist())
    assert float(found["ce"].detach()) == pytest.approx(ce, abs=1e-9)
    assert float(found["mixmatch"].detach()) == pytest.approx(75 * distance, abs=1e-9)
    assert pupil.interleaved and not pupil.joint


def test_guesses_have_no_gradient():
    batch, pupil = few_labels("weak", "weak2"), Pupil()
    assert not mixmatch().guess(pupil, list(batch.unlabelled.views.values())).requires_grad


def test_passes_have_as_many_images_as_the_labelled_batch():
    _, pupil = terms_of(mixmatch(), few_labels("weak", "weak2", ratio=4))
    assert [len(image) for image in pupil.asked] == [12, 12, *[3] * 9]


@few
@given(st.floats(0.05, 20))
def test_sharpening_keeps_the_order_and_the_sum(temperature):
    p = random(6, 4).softmax(1)
    found = sharpen(p, temperature)
    assert torch.allclose(found.sum(1), torch.ones(6, dtype=torch.float64))
    assert torch.equal(found.argsort(1), p.argsort(1))
    powers = p ** (1 / temperature)
    assert torch.allclose(found, powers / powers.sum(1, keepdim=True))


def test_sharpening_survives_certainty_and_cold():
    certain = torch.tensor([[1.0, 0.0, 0.0], [0.6, 0.4, 0.0]])
    assert sharpen(certain, 1e-3).tolist() == [[1, 0, 0], [1, 0, 0]]
    assert torch.equal(sharpen(certain, 1.0), certain)


@pytest.mark.parametrize("mix_per", ["batch", "image"])
def test_an_image_is_mostly_itself_and_so_is_its_target(mix_per):
    images, targets = random(50, 1, 2, 2), torch.eye(50, dtype=torch.float64)
    torch.manual_seed(0)
    mixed, mixed_targets = mix_up(images, targets, 0.75, mix_per)
    assert torch.all(mixed_targets.diagonal() >= 0.5)
    assert torch.allclose(mixed.flatten(1), mixed_targets @ images.flatten(1))
    shares = mixed_targets.diagonal()[mixed_targets.diagonal() < 1]
    assert (shares.unique().numel() == 1) == (mix_per == "batch")


def test_shares_have_the_spread_of_their_distribution():
    torch.manual_seed(0)
    for beta in (0.5, 0.75, 4.0):
        shares = draw_shares(beta, torch.zeros(20000), "image")
        assert float(shares.mean()) == pytest.approx(0.5, abs=0.02)
        assert float(shares.var()) == pytest.approx(1 / (4 * (2 * beta + 1)), rel=0.05)
