"""Proposals of trials: never one twice, the same after a resume, and TPE's better than chance."""

from statistics import fmean

import pytest
from searches import ALPHA, finished, planned

from kdexp.search.samplers import propose
from kdexp.search.space import value_in
from kdexp.search.trial import FAILED, PRUNED, Trial


def proposals(plan, count, value=lambda words: 0.5):
    """The first proposals for the last space of a plan, each trial with the value of its words."""
    trials = []
    for number in range(count):
        words = propose(plan.spaces[-1], plan.settings, trials)
        trials.append(finished(number, *words, value=value(words)))
    return trials


def test_a_grid_is_every_combination_in_order():
    plan = planned("search=grid", "distillation.alpha=0.1,0.2", "optimizer.lr=0.1,0.01")
    assert [trial.words[0][-3:] + trial.words[1][-4:] for trial in proposals(plan, 4)] == [
        "0.1=0.1",
        "0.10.01",
        "0.2=0.1",
        "0.20.01",
    ]


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_no_combination_is_proposed_twice(sampler):
    if sampler == "tpe":
        pytest.importorskip("optuna")
    plan = planned(f"search={sampler}", "distillation.alpha=0.1,0.2,0.3", "batch_size=int(interval(8,11))")
    assert len({trial.words for trial in proposals(plan, 12)}) == 12


def test_methods_try_the_same_random_values():
    plan = planned("search=random", "distillation=kd,mse_logits", ALPHA)
    first, second = (propose(space, plan.settings, []) for space in plan.spaces)
    assert first == second
    assert propose(plan.spaces[0], planned("search=random", "search.seed=1", ALPHA).settings, []) != first


def test_tpe_comes_nearer_the_best_values_than_random_draws():
    pytest.importorskip("optuna")
    words = (ALPHA, "distillation.temperature=tag(log,interval(1,20))", "optimizer.lr=choice(0.1,0.01)")

    def value(words):
        alpha, temperature, rate = map(float, map(value_in, words))
        return 1 - abs(alpha - 0.7) - abs(temperature - 4) / 20 - (rate == 0.1) / 4

    late = {name: proposals(planned(f"search={name}", *words), 40, value)[20:] for name in ("tpe", "random")}
    means = {name: fmean(trial.value for trial in trials) for name, trials in late.items()}
    assert means["tpe"] > means["random"] + 0.15


def test_tpe_goes_on_as_if_it_had_not_been_interrupted():
    pytest.importorskip("optuna")
    plan = planned("search=tpe", ALPHA)
    trials = proposals(plan, 14)
    again = [Trial(each.number, each.method, each.words, each.scores, state=each.state) for each in trials[:13]]
    assert propose(plan.spaces[0], plan.settings, again) == trials[13].words


def test_tpe_reads_pruned_and_failed_trials():
    pytest.importorskip("optuna")
    plan = planned("search=tpe", ALPHA)
    trials = proposals(plan, 11)
    trials += [Trial(11, "kd", ("distillation.alpha=0.5",), partial=(0.1, 0.2), state=PRUNED)]
    trials += [Trial(12, "kd", ("distillation.alpha=0.6",), state=FAILED)]
    assert 0 <= float(value_in(propose(plan.spaces[0], plan.settings, trials)[0])) <= 1
