"""ReMixMatch: its guesses, its four terms by hand, the memory of its predictions, and rotations."""

import copy
import math

import pytest
import torch
from loss_bench import probe, random
from pupils import CLASSES, Pupil, few_labels, made, probabilities, terms_of
from torch import nn

from kdexp.distillation import mixing
from kdexp.distillation.mixing import draw_order, draw_shares
from kdexp.distillation.remixmatch import ReMixMatch, RunningMean, Window, rotate
from kdexp.network.capture import Outputs

OWN = {
    "anchor_weight": 0.5,
    "rotation_weight": 0.25,
    "beta": 0.75,
    "mix_per": "batch",
    "momentum": 0.9,
    "window": None,
    "temperature": 0.5,
    "ramp": 0.0,
}
LABELS = [0, 0, 0, 1, 2]
VIEWS = ("weak", "strong", "strong2")


class Pooling(Pupil):
    """Its images are also the pooled vectors."""

    def forward(self, image):
        return Outputs(super().forward(image).logits, {"pooled": image.flatten(1)})


def remixmatch(**changed):
    method = made(ReMixMatch, **OWN | changed)
    method._pooled = "pooled"
    torch.manual_seed(3)
    method.setup(probe(Outputs(random(2, CLASSES), {"pooled": random(2, 4)}), labels=LABELS))
    method.double()
    method.class_shares = torch.tensor([0.6, 0.2, 0.2], dtype=torch.float64)  # as exact as the sums by hand
    return method


def guess_by_hand(predictions, expected, temperature=0.5):
    shares = [LABELS.count(label) / len(LABELS) for label in range(CLASSES)]
    found = []
    for row in predictions:
        ratios = [(share + 1e-6) / (mean + 1e-6) for share, mean in zip(shares, expected, strict=True)]
        aligned = [p * ratio for p, ratio in zip(row, ratios, strict=True)]
        powers = [(p / sum(aligned)) ** (1 / temperature) for p in aligned]
        found.append([power / sum(powers) for power in powers])
    return found


def soft_cross_entropy(targets, answers):
    rows = zip(targets, answers, strict=True)
    return -sum(q * math.log(p) for target, answer in rows for q, p in zip(target, answer, strict=True)) / len(answers)


def answers_of(network, images):
    return [probabilities(row) for row in network(images).tolist()]


def combined(share, ours, theirs):
    return [share * a + (1 - share) * b for a, b in zip(ours, theirs, strict=True)]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("mix_per", ["batch", "image"])
def test_the_terms_equal_sums_written_by_hand(monkeypatch, seed, mix_per):
    batch, method, pupil = few_labels(*VIEWS, seed=10 * seed), remixmatch(mix_per=mix_per, weight=1.5), Pooling()
    weak, strong, strong2 = batch.unlabelled.views.values()
    shares, order = draw_shares(0.75, random(21), mix_per), draw_order(random(21)).tolist()
    monkeypatch.setattr(mixing, "draw_shares", lambda *_: shares)
    monkeypatch.setattr(mixing, "draw_order", lambda _: torch.tensor(order))
    torch.manual_seed(seed)
    turns = torch.randint(4, (6,)).tolist()
    torch.manual_seed(seed)
    found, _ = terms_of(method, batch, pupil)
    found = {name: float(term.detach()) for name, term in found.items()}

    predictions = answers_of(pupil.network, weak)
    guessed = guess_by_hand(predictions, [sum(column) / 6 for column in zip(*predictions, strict=True)])
    targets = [[float(label == k) for k in range(CLASSES)] for label in batch.label.tolist()] + guessed * 3
    images = torch.cat([batch.image, strong, strong2, weak])
    folded = [max(share, 1 - share) for share in shares.tolist()]
    mixed_targets = [combined(*draw) for draw in zip(folded, targets, (targets[other] for other in order), strict=True)]
    flat = images.flatten(1).tolist()
    mixed = [combined(*draw) for draw in zip(folded, flat, (flat[other] for other in order), strict=True)]
    answers = answers_of(pupil.network, torch.tensor(mixed, dtype=torch.float64).view(-1, 1, 2, 2))
    assert found["ce"] == pytest.approx(soft_cross_entropy(mixed_targets[:3], answers[:3]), abs=1e-9)
    assert found["mixed"] == pytest.approx(1.5 * soft_cross_entropy(mixed_targets[3:], answers[3:]), abs=1e-9)
    assert found["anchor"] == pytest.approx(0.5 * soft_cross_entropy(guessed, answers_of(pupil.network, strong)), abs=1e-9)
    rotated = torch.stack([turned(image, number) for image, number in zip(strong, turns, strict=True)])
    told = answers_of(method.rotations, rotated.flatten(1))
    one_hot = [[float(number == k) for k in range(4)] for number in turns]
    assert found["rotation"] == pytest.approx(0.25 * soft_cross_entropy(one_hot, told), abs=1e-9)


def turned(image, number):
    """An image [C, H, H] after that many quarter turns against the clock, value by value."""
    for _ in range(number):
        rows = [list(column) for column in zip(*image[0].tolist(), strict=True)][::-1]
        image = torch.tensor([rows], dtype=image.dtype)
    return image


def test_rotations_are_quarter_turns_of_each_image():
    images, turns = random(8, 1, 5, 5), torch.tensor([0, 1, 2, 3, 3, 2, 1, 0])
    found = rotate(images, turns)
    assert all(torch.equal(ours, turned(image, int(number))) for ours, image, number in zip(found, images, turns, strict=True))
    assert torch.equal(rotate(found, (4 - turns) % 4), images)


def test_guesses_are_aligned_with_the_labels_class_shares():
    """A student that always predicts the mean has the classes' shares as its guess, before sharpening."""
    method, pupil = remixmatch(temperature=1.0), Pooling(nn.Sequential(nn.Flatten(), nn.Linear(4, CLASSES)).double())
    nn.init.zeros_(pupil.network[1].weight)
    assert method.guess(pupil, random(4, 1, 2, 2))[2].tolist() == pytest.approx([0.6, 0.2, 0.2], abs=1e-5)


def test_the_shares_of_the_classes_are_those_of_the_labels():
    method = made(ReMixMatch, **OWN | {"rotation_weight": 0.0})
    method.setup(probe(Outputs(random(2, CLASSES)), labels=LABELS))
    assert method.class_shares.tolist() == pytest.approx([0.6, 0.2, 0.2])


def test_the_mean_prediction_starts_with_the_first_and_moves():
    mean = RunningMean(0.9, 2)
    assert mean(torch.tensor([0.8, 0.2])).tolist() == pytest.approx([0.8, 0.2])
    assert mean(torch.tensor([0.3, 0.7])).tolist() == pytest.approx([0.75, 0.25])
    assert mean.state_dict()["mean"].tolist() == pytest.approx([0.75, 0.25])


def test_the_window_is_of_earlier_batches_and_uniform_before():
    window = Window(2, 2)
    seen = [window(torch.tensor(row)).tolist() for row in ([1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0])]
    assert seen == [[0.5, 0.5], [0.75, 0.25], [1.0, 0.0], [0.5, 0.5]]


@pytest.mark.parametrize("window", [None, 3])
def test_the_memory_is_stored_and_goes_on_from_there(window):
    whole, pupil = remixmatch(window=window), Pooling()
    whole.guess(pupil, random(4, 1, 2, 2))
    resumed = remixmatch(window=window)
    resumed.load_state_dict(copy.deepcopy(whole.state_dict()))
    later = random(4, 1, 2, 2, seed=1)
    fresh = remixmatch(window=window).guess(pupil, later)
    assert torch.equal(whole.guess(pupil, later), guess := resumed.guess(pupil, later)) and not torch.equal(guess, fresh)


def test_without_rotations_there_is_no_head():
    method = made(ReMixMatch, **OWN | {"rotation_weight": 0.0, "anchor_weight": 0.0})
    assert method.layers(nn.Identity(), None) == ([], [])
    method.setup(probe(Outputs(random(2, CLASSES)), labels=LABELS))
    assert not list(method.parameters())
    assert list(terms_of(method.double(), few_labels(*VIEWS), Pooling())[0]) == ["ce", "mixed"]


def test_all_terms_reach_the_student_and_the_rotation_reaches_its_head():
    method, pupil = remixmatch(), Pooling()
    found, _ = terms_of(method, few_labels(*VIEWS), pupil)
    for name in ("ce", "mixed", "anchor"):
        assert torch.autograd.grad(found[name], pupil.network[1].weight, retain_graph=True)[0].abs().sum() > 0
    assert torch.autograd.grad(found["rotation"], method.rotations.weight)[0].abs().sum() > 0
    assert pupil.interleaved
