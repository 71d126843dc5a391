"""The journal of a search: every change survives the process, and a torn last line is written over."""

import pytest

from kdexp.errors import BadFile
from kdexp.search.pruning import MedianPruner, Pruned
from kdexp.search.trial import FINISHED, PRUNED, RUNNING, Score, Trial
from kdexp.search.trials import Trials


@pytest.fixture
def journal(tmp_path):
    """A journal with a finished and a running trial."""
    trials = Trials.begin(tmp_path / "search.journal", "identity")
    first, second = trials.start("kd", ["a=1"]), trials.start("kd", ["a=2"])
    trials.add_score(first, 0, Score(0.5, 0.25, (0.25, 0.5)))
    trials.add_score(first, 3, Score(0.75, 0.5, (0.5, 0.75)))
    trials.end(first, FINISHED)
    trials.add_score(second, 0, Score(0.5, None, (0.5,)))
    return trials


def test_another_process_reads_what_was_written(journal):
    again = Trials.read(journal.path)
    assert again.all == journal.all and again.identity == "identity" and not again.concluded
    assert (again.all[0].value, again.all[0].baseline) == (0.625, 0.375)
    assert again.running == again.all[1:] and again.all[1].value is None
    again.end(again.all[1], PRUNED, "below", [0.125])
    assert Trials.read(journal.path).all[1].curves == [(0.5,), (0.125,)]
    again.conclude()
    assert Trials.read(journal.path).concluded


def test_a_torn_line_is_lost_alone(journal):
    with journal.path.open("ab") as file:
        file.write(b'{"trial": 1, "state": "fini')
    again = Trials.read(journal.path)
    assert again.all[1].state == RUNNING
    again.end(again.all[1], FINISHED)
    assert Trials.read(journal.path).all == again.all


@pytest.mark.parametrize("content", [b"", b"nonsense\n", b'{"search": "x"}\n{"trial": 5, "seed": 0}\n', b"[]\n"])
def test_another_file_is_no_journal(tmp_path, content):
    (tmp_path / "search.journal").write_bytes(content)
    with pytest.raises(BadFile, match="not the journal of a search"):
        Trials.read(tmp_path / "search.journal")


def curves(*values):
    return [
        Trial(number, "kd", (), {0: Score(value, None, (0.1, value, value))}, state=FINISHED)
        for number, value in enumerate(values)
    ]


def test_a_trial_below_the_median_is_pruned():
    pruner = MedianPruner(curves(0.2, 0.3, 0.5, 0.6, 0.7), position=0, epochs=3)
    pruner.check([0.5, 0.1])
    with pytest.raises(Pruned, match="after epoch 2") as pruned:
        pruner.check([0.1, 0.4])
    assert pruned.value.curve == (0.1, 0.4) and not isinstance(pruned.value, Exception)


@pytest.mark.parametrize(
    ("others", "position", "curve"),
    [
        (curves(0.6, 0.7, 0.8, 0.9), 0, [0.0, 0.0]),
        (curves(*[0.9] * 5), 1, [0.0, 0.0]),
        (curves(*[0.9] * 5), 0, [0.0]),
        (curves(*[0.9] * 5), 0, [0.0, 0.0, 0.0]),
    ],
    ids=["few others", "another seed", "first epoch", "last epoch"],
)
def test_a_trial_is_not_pruned_without_need(others, position, curve):
    MedianPruner(others, position, epochs=3).check(curve)
