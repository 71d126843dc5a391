"""What a training prints: the epoch in its bar, and what is trained in words."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from kdexp.experiment.journal import Journal, training_words


@pytest.mark.parametrize("learners", [1, 7])
def test_the_progress_bar_names_the_epoch(learners):
    screen = io.StringIO()
    journal = Journal(Console(file=screen, force_terminal=True, width=120))
    trained = [SimpleNamespace(name=f"net {number}", history=[], failure="") for number in range(learners)]
    with journal.watching(trained, epochs=3, steps=2) as watch:
        for _ in range(2):
            for learner in trained:
                learner.history.append({"epoch": 1, "loss": 0.5, "ce": 0.5, "train_accuracy": 0.75})
            watch.step(trained), watch.epoch(trained)
        watch._bars.refresh()
        assert "epoch 3/3" in screen.getvalue() and "train 75.0 %" in screen.getvalue()


def test_a_training_is_announced_in_words():
    def spec(epochs, batch_size=1, members=(), **model):
        return SimpleNamespace(epochs=epochs, batch_size=batch_size, members=members, model=model)

    assert (
        training_words("teacher", spec(1, 128), 10, 50_000)
        == "training teacher: 1 epoch of 10 batches (1,280 of 50,000 images)"
    )
    assert training_words("a and b", spec(1200, 32), 3, 90) == ("training a and b: 1,200 epochs of 3 batches (90 images)")
    few = training_words("a", spec(2, 32), 3, 40, repeats=True)
    assert few == "training a: 2 epochs of 3 batches (96 times one of 40 labelled images)"
    assert training_words("untrained_teacher", spec(0), 9, 9) == "untrained_teacher: left untrained"
    assert training_words("teacher", spec(0, checkpoint="a digest"), 9, 9) == "teacher: as in its checkpoint"
    assert training_words("teacher", spec(0, members=["one", "two"]), 9, 9) == "teacher: the mean of 2 members"
