"""A plain trainee in float64, and batches with unlabelled images, for the losses of semi-supervised methods."""

from contextlib import nullcontext

import torch
from loss_bench import WEIGHTS, random
from torch import nn

from kdexp.data.batch import Batch, Unlabelled
from kdexp.distillation.base import Progress
from kdexp.network.capture import Outputs

CLASSES = 3
HALF_WAY = Progress(epoch=5.0, epochs=10, step=50)
RATIO = {"weight": 1.0, "unlabelled_ratio": 2}


class Pupil:
    """Runs a network of its own on each batch of images; keeps the terms that it descends on and what is noted."""

    def __init__(self, network=None, average=None):
        torch.manual_seed(0)
        self.network = network or nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, CLASSES)).double()
        self.average = average
        self.terms, self.notes, self.asked = {}, {}, []

    def forward(self, image):
        self.asked.append(image)
        return Outputs(self.network(image))

    def forward_aside(self, image):
        return self.forward(image)

    def forward_all(self, images, *, joint, interleaved=False):
        self.joint, self.interleaved = joint, interleaved
        return [self.forward(image) for image in images]

    @torch.no_grad()
    def ask_average(self, image):
        return self.average(image)

    def exactly(self):
        return nullcontext()

    def note(self, **measures):
        self.notes |= measures

    def descend(self, terms):
        self.terms = terms


def made(method, **knobs):
    """The method with these knobs, and no others but the weights that all have."""
    return method(**WEIGHTS | RATIO | knobs)


def few_labels(*views, labels=(0, 2, 1), ratio=2, seed=0):
    """A batch of random images [N, 1, 2, 2] with these labels, and `ratio` as many unlabelled ones in the views."""
    count = len(labels)
    images = {view: random(ratio * count, 1, 2, 2, seed=seed + 1 + at) for at, view in enumerate(views)}
    unlabelled = Unlabelled(torch.arange(ratio * count), images)
    batch = Batch(random(count, 1, 2, 2, seed=seed), torch.tensor(labels), torch.arange(count))
    batch.unlabelled = unlabelled
    return batch


def schedule(method, progress=HALF_WAY):
    """Has the method see the numbers that it schedules for that point of the training."""
    method.now = {name: torch.tensor(value, dtype=torch.float64) for name, value in method.scheduled(progress).items()}


def terms_of(method, batch, pupil=None, progress=HALF_WAY):
    """The terms of a step at that point of the training, and the pupil that took it."""
    pupil = pupil or Pupil()
    schedule(method, progress)
    terms = method.update(pupil, batch, None, progress)
    assert terms is pupil.terms
    return terms, pupil


def probabilities(logits):
    """Softmax of one image's logits, a list, by hand."""
    exponentials = [2.718281828459045**value for value in logits]
    return [value / sum(exponentials) for value in exponentials]


def cross_entropy_by_hand(logits, labels):
    """The mean of -log p of the label."""
    from math import log

    rows = [probabilities(row) for row in logits.tolist()]
    return -sum(log(row[label]) for row, label in zip(rows, labels, strict=True)) / len(rows)
