"""Learners made ready, and the train loop without a journal."""

from torch.utils._python_dispatch import TorchDispatchMode

from kdexp.training.loop import train
from kdexp.training.prepare import prepare


class Silent:
    def step(self, learners):
        pass

    def epoch(self, learners):
        pass


def prepared(experiment, *roles):
    """Learners for these roles and their teacher."""
    experiment.obtain(["teacher"])
    entries = [experiment.entry(role) for role in roles]
    network = experiment.teacher_network(entries)
    return prepare(entries, network, experiment.shape, experiment.precision, experiment.split_of(entries[0]).labels)


def run(experiment, learners, teacher, epochs=2, limit=3):
    split, validation = experiment.data.student_train, experiment.data.validation
    ways = {"epochs": epochs, "batch_size": 32, "seed": experiment.settings.seed, "limit_batches": limit, "watch": Silent()}
    train(learners, split, teacher=teacher, validation=validation, **ways, keep=lambda learner: None)


class Operators(TorchDispatchMode):
    """Collects the names of all operators that run inside it."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func.overloadpacket))
        return func(*args, **(kwargs or {}))
