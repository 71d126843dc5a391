"""When the progress of a training is saved."""

import errno

import pytest
import torch
from experiments import said

from kdexp.experiment import progress
from kdexp.experiment.progress import saving_progress
from kdexp.store.learners import LearnerStore

KEYS = {"student": "0123456789abcdef"}


class Trained:
    """A learner of one weight, which each of its epochs changes in place."""

    name = "student"

    def __init__(self):
        self.weight, self.history = torch.zeros(1), []

    def epoch(self):
        self.weight += 1
        self.history.append({"epoch": len(self.history) + 1})

    def progress(self):
        return {"weights": {"weight": self.weight}, "history": self.history, "seconds": 0.5}


@pytest.fixture
def clock(monkeypatch):
    """The time in seconds, as a list of one number."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def store(tmp_path):
    store = LearnerStore(tmp_path, say=print)
    store.require_writable()
    return store


def saved(store):
    """The number of epochs in the store, and the weight after them."""
    state = store.progress(KEYS["student"])
    return state and (len(state["history"]), float(state["weights"]["weight"]))


def test_progress_is_saved_every_few_seconds_and_when_a_training_is_cut_short(store, clock, make_experiment):
    learner, seen = Trained(), []
    with pytest.raises(KeyboardInterrupt), saving_progress(store, KEYS, make_experiment().journal) as saver:
        for seconds in (1.0, 3.9, 0.1, 1.0, 6.0, 1.0):
            clock[0] += seconds
            learner.epoch()
            saver.keep(learner)
            seen.append(saved(store))
        learner.epoch()  # the one that is interrupted
        raise KeyboardInterrupt
    assert seen == [None, None, (3, 3.0), (3, 3.0), (5, 5.0), (5, 5.0)]
    assert saved(store) == (6, 6.0)


def test_a_finished_training_saves_nothing_more(store, clock, make_experiment):
    learner = Trained()
    with saving_progress(store, KEYS, make_experiment().journal) as saver:
        learner.epoch()
        saver.keep(learner)
    assert saved(store) is None


def test_progress_that_cannot_be_saved_is_reported_once(store, clock, make_experiment, monkeypatch):
    def full(self, key, state):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(LearnerStore, "keep_progress", full)
    experiment, learner = make_experiment(), Trained()
    with saving_progress(store, KEYS, experiment.journal) as saver:
        for _ in range(3):
            clock[0] += 10
            learner.epoch()
            saver.keep(learner)
    assert said(experiment).count("progress can't be saved (No space left on device)") == 1
