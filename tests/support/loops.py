"""Prepared learners, and the train loop without a journal."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kdexp.data.epoch import UnlabelledViews
from kdexp.data.views import WEAK
from kdexp.device.random import RandomStream
from kdexp.experiment.obtain import obtain
from kdexp.network.build import build_network
from kdexp.teacher.cache import OutputCache
from kdexp.teacher.lookup import LookupSource, choose_lookup
from kdexp.training.loop import train
from kdexp.training.prepare import prepare
from kdexp.training.recorded_steps import steps_for


def assert_same(ours, theirs):
    """Two learners of the store have the same weights and history."""
    mine, others = (entry.stored.tensors("last") for entry in (ours, theirs))
    assert mine.keys() == others.keys() and all(torch.equal(mine[name], others[name]) for name in mine)
    assert ours.stored.result["history"] == theirs.stored.result["history"]


class Silent:
    def step(self, learners):
        pass

    def epoch(self, learners):
        pass


def prepared(experiment, *roles):
    """Learners for these roles and their teacher."""
    obtain(experiment, ["teacher"])
    entries = [experiment.entry(role) for role in roles]
    network = experiment.teacher_network(entries)
    split = experiment.split_of(entries[0])
    return prepare(entries, network, experiment.shape, experiment.precision, split.labels, split.unlabelled_images)


def fresh(experiment, *roles):
    """Learners for these roles and an untrained teacher."""
    entries = [experiment.entry(role) for role in roles]
    with RandomStream(1, torch.device("cpu")):
        network = build_network(experiment.spec("teacher").model, experiment.shape)
    split = experiment.data.student_train
    return prepare(entries, network, experiment.shape, experiment.precision, split.labels, split.unlabelled_images)


def first_read(learner, teacher, split, batch_size):
    """The first batch as the learner's method reads it, and the teacher's outputs for it (None without a teacher)."""
    method = learner.distiller
    views = tuple({method.student_view, method.teacher_view} - {WEAK})
    unlabelled = UnlabelledViews(method.unlabelled, method.unlabelled_ratio)
    batch = next(split.batches(batch_size, seed=0, epoch=0, views=views, unlabelled=unlabelled))
    return learner.reads(batch, {each.reading: each(batch) for each in teacher.by_reading.values()} if teacher else {})


def look_up(teacher, split):
    """Has the teacher answer from a table of its own, if there can be one."""
    lookup = choose_lookup(teacher, split, LookupSource("", OutputCache(), None))
    teacher.use(lookup.table, lookup.extra_layers)


def run(experiment, learners, teacher, epochs=2, limit=3):
    split, validation = experiment.data.student_train, experiment.data.validation
    quiet_training(learners, split, teacher, validation, epochs=epochs, seed=experiment.settings.seed, limit_batches=limit)


def quiet_training(learners, split, teacher, validation, *, epochs, batch_size=32, seed=0, limit_batches=None):
    steps = steps_for(learners[0].precision)(split, teacher, epochs, batch_size, seed, limit_batches)
    train(learners, steps, validation=validation, watch=Silent(), keep=lambda learner: None)


class Operators(TorchDispatchMode):
    """Collects the names of all operators that run inside it."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func.overloadpacket))
        return func(*args, **(kwargs or {}))
