"""Trials and the processes that take them: one each, in an order that does not depend on who is quicker."""

import shutil

import pytest
from searches import ALPHA, SEEDS, planned

from kdexp.errors import SweepLost
from kdexp.queue.queue import MOST_DEATHS
from kdexp.search import queue as module
from kdexp.search.queue import TrialQueue
from kdexp.search.trial import FAILED, FINISHED, PRUNED, Score
from kdexp.search.trials import Trials
from kdexp.store.run_state import write_state

TWO = ("search.pruner=median", "search.trials=4", *SEEDS, ALPHA)


class Locks:
    """Locks of several processes, each with one of these."""

    def __init__(self, held):
        self.held = held

    def take(self, number):
        return self.held.setdefault(number, self) is self

    def release(self, number):
        self.held.pop(number, None)

    def close(self):
        for number in [number for number, owner in self.held.items() if owner is self]:
            self.release(number)


@pytest.fixture
def processes(tmp_path, monkeypatch):
    """Two processes of a search whose journal two trials may be written to at the same time."""
    held = {}
    monkeypatch.setattr(module, "numbered_locks", lambda path: Locks(held))
    (tmp_path / "jobs.json").write_text("{}")
    plan = planned("search=random", *TWO)
    trials = Trials.begin(tmp_path / "search.journal", plan.identity)
    trials.allow(2)
    return [TrialQueue(tmp_path, plan, Trials.read(trials.path)) for _ in range(2)]


def finish(queue, trial, value=0.5):
    queue.trials.add_score(trial, 0, Score(value, None, (value,)))
    queue.trials.end(trial, FINISHED)
    queue.end(trial)


def test_every_trial_is_one_process_s(processes):
    one, other = processes
    taken = []
    while one.left:
        pair = [one.take(), other.take()]
        assert None not in pair
        taken += [trial.number for trial in pair]
        for queue, trial in zip(processes, pair, strict=True):
            finish(queue, trial)
        other.trials.refresh()
        one.trials.refresh()
    assert taken == [0, 1, 2, 3] and other.left == 0 and one.take() is None
    assert one.trials.all == other.trials.all and len({trial.words for trial in one.trials.all}) == 4


def test_a_trial_waits_for_those_that_it_is_to_know(processes):
    one, other = processes
    first, second = one.take(), other.take()
    finish(other, second)
    assert other.take() is None, "the third is to know the first, which still runs"
    finish(one, first)
    third = other.take()
    assert (first.known, second.known, third.known) == (0, 0, 1)


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_proposals_do_not_depend_on_who_was_quicker(tmp_path, sampler):
    if sampler == "tpe":
        pytest.importorskip("optuna")
    plan = planned(f"search={sampler}", "search.trials=20", ALPHA)
    (tmp_path / "jobs.json").write_text("{}")
    proposed = []
    for quick in (False, True):
        trials = Trials.begin(tmp_path / f"{quick}.journal", plan.identity)
        trials.allow(3)
        for number in range(13):
            trial = trials.start("kd", [f"distillation.alpha={number / 13:.3g}"])
            if number < 11 or quick:
                trials.add_score(trial, 0, Score(number / 13, None, (0.5,)))
                trials.end(trial, FINISHED)
        known = trials.as_known_to_next("kd")
        proposed.append(module.propose(plan.spaces[0], plan.settings, known))
        assert [each.state for each in known[-3:]] == ["finished", "running", "running"]
    assert proposed[0] == proposed[1] and proposed[0] not in {trial.words for trial in known}


def test_without_pruning_random_trials_wait_for_nobody(processes):
    one, other = processes
    one.plan = other.plan = planned("search=random", *TWO[1:])
    one.take()
    for number in (1, 2, 3):
        trial = other.take()
        assert trial.number == number
        finish(other, trial)
    assert other.take() is None and other.left == 1


def test_a_trial_is_compared_with_those_that_it_knows(processes):
    one, other = processes
    first, second = one.take(), other.take()
    finish(one, first, 0.9)
    one.trials.end(one.trials.all[1], PRUNED, "below", [0.1])
    third = one.take()
    assert [trial.number for trial in one.trials.known_to(third)] == [0]
    assert one.trials.known_to(second) == []


def test_another_process_goes_on_with_the_trial_of_one_that_died(processes):
    one, other = processes
    trial = one.take()
    one.trials.add_score(trial, 0, Score(0.5, None, (0.5,)))
    one.close()
    again = other.take()
    assert again.number == trial.number and list(again.scores) == [0]
    assert other.place(again, 1).name == "000-1"
    other.place(again, 1).mkdir()
    assert other.place(again, 1).name == "000-1_2"


def test_a_trial_that_kills_its_processes_has_failed(processes):
    one, _ = processes
    trial = one.take()
    for number in range(MOST_DEATHS):
        one.close()
        assert one.take() is trial
        one.place(trial, 0).mkdir()
        write_state(one.folder / "trials" / f"000-0{f'_{number + 1}' if number else ''}", "running")
    one.close()
    following = one.take()
    assert trial.state == FAILED and "was killed 3 times" in trial.reason and following.number == 1


def test_a_search_goes_on_with_as_many_trials_at_a_time_as_its_command_says(processes):
    one, _ = processes
    finish(one, one.take())
    one.trials.allow(1)
    one.take()
    assert one.trials.all[1].known == 1 and Trials.read(one.trials.path).parallel == 1


def test_a_lost_folder_ends_the_trials(processes):
    shutil.rmtree(processes[0].folder)
    with pytest.raises(SweepLost, match="has disappeared"):
        processes[0].take()


def test_the_number_of_trials_at_a_time_is_part_of_a_search_only_if_it_is_given():
    plain, one = planned("search=random", ALPHA), planned("search=random", ALPHA, "search.parallel=3")
    assert plain.identity != one.identity and planned("search=random", ALPHA).identity == plain.identity
