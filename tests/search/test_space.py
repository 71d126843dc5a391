"""What a search chooses from: Hydra's intervals and lists, and refusals of what can't be searched."""

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from searches import ALPHA, planned, problems

from kdexp.search.space import Choice, Interval, dimension_of, value_in


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("distillation.alpha=interval(0,1)", Interval("distillation.alpha", "distillation.alpha", 0.0, 1.0)),
        ("a=tag(log,interval(1,20))", Interval("a", "a", 1.0, 20.0, log=True)),
        ("+a=int(interval(1,20))", Interval("a", "+a", 1, 20, whole=True)),
        ("a=choice(1,b)", Choice("a", ("a=1", "a=b"))),
        ("a=0.1,0.2", Choice("a", ("a=0.1", "a=0.2"))),
        ("a=range(1,4)", Choice("a", ("a=1", "a=2", "a=3"))),
        ("a=[1,2]", None),
        ("a=1", None),
    ],
)
def test_words_in_hydras_grammar(text, expected):
    assert dimension_of(text, lambda _group: ()) == expected


@given(st.floats(1e-6, 1e6), st.floats(1.001, 1e6), st.booleans(), st.integers(0, 10**6))
def test_draws_lie_inside_and_are_short(low, factor, log, seed):
    interval = Interval("a", "a", low, low * factor, log)
    text = value_in(interval.draw(Random(seed)))
    assert interval.low <= float(text) <= interval.high
    assert float(text) in (float(f"{float(text):.4g}"), interval.low, interval.high)


def test_logarithmic_draws_are_even_over_magnitudes():
    interval = Interval("a", "a", 1e-4, 1.0, log=True)
    drawn = [math.log10(float(value_in(interval.draw(Random(seed))))) for seed in range(400)]
    assert abs(sum(value < -2 for value in drawn) / 400 - 0.5) < 0.1


def test_whole_numbers_reach_both_ends():
    interval = Interval("a", "a", 1, 3, whole=True)
    assert {interval.draw(Random(seed)) for seed in range(40)} == {"a=1", "a=2", "a=3"}


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["distillation.alpha=interval(0,2)"], "distillation.alpha=2: must be at least 0 and at most 1"),
        (["epochs=interval(1,5)"], "epochs=2.508: must be a whole number; write 'epochs=int(interval(1,5))'"),
        (["distillation.alpha=interval(1,0)"], "the smaller one first"),
        (["optimizer.lr=tag(log,interval(0,1))"], "must begin above 0"),
        (["distillation.alpha=tag(lin,interval(0,1))"], "unknown tag 'lin'"),
        (["distillation.alpha=tag(log,choice(0,1))"], "no meaning for a list"),
        (["distillation.alpha=0.1,0.1"], "0.1 is given twice"),
        (["distillation.alpa=interval(0,1)"], "did you mean distillation.alpha?"),
        (["optimizer.lr=range(0,1,0.00001)"], "an interval has any number"),
        (["epochs=2"], "nothing to search; give values to choose from"),
        (["epochs=[2"], "can't be read"),
        ([ALPHA, "seed=3"], "search.seeds=[0,1,2]"),
        ([ALPHA, "dataset.split_seed=1,2"], "the same validation images"),
        (
            ["dataset=image_folder", "dataset.root=x", "dataset.image_size=8", "dataset.test_fraction=0.1,0.2"],
            "dataset.test_fraction: trials are compared on the same validation images",
        ),
        ([ALPHA, "dataset.val_fraction=0"], "this data set has none; give dataset.val_fraction=0.1"),
        ([ALPHA, "search.trails=4"], "did you mean search.trials?"),
        ([ALPHA, "search.trials=null"], "only search=grid ends by itself"),
        ([ALPHA, "search.seeds=[]"], "at least one seed"),
        ([ALPHA, "search.seeds=[1,1]"], "1 is given twice"),
        ([ALPHA, "search.fresh_seeds=[5,1]"], "1 is one of search.seeds"),
        ([ALPHA, "search=grid"], "a grid needs a list of values, such as 0,1"),
        (["distillation.alpha=0.1,0.2", "search=grid", "search.trials=1"], "the grid has 2 combinations"),
    ],
)
def test_what_cant_be_searched_is_named(words, named):
    assert any(named in sentence for sentence in problems("search=random", *words))


def test_tpe_without_optuna_names_the_extra(monkeypatch):
    monkeypatch.setattr("kdexp.search.settings.find_spec", lambda name: None)
    (sentence,) = problems("search=tpe", ALPHA)
    assert 'pip install "kdexp[search]"' in sentence and "search=random" in sentence


def test_methods_are_searched_one_by_one_each_with_what_it_has():
    words = ("distillation=none,kd,dkd", ALPHA, "distillation.target_weight=interval(0,2)", "optimizer.lr=0.1,0.01")
    keys = {space.method: [one.key for one in space.dimensions] for space in planned("search=random", *words).spaces}
    assert keys == {
        "none": ["optimizer.lr"],
        "kd": ["distillation.alpha", "optimizer.lr"],
        "dkd": ["distillation.alpha", "distillation.target_weight", "optimizer.lr"],
    }


def test_methods_have_equal_budgets_unless_one_has_fewer_combinations():
    plan = planned("search=random", "search.trials=5", "distillation=none,kd", ALPHA, "optimizer.lr=0.1,0.01")
    assert [plan.budget(space) for space in plan.spaces] == [2, 5]
    grid = planned("search=grid", "distillation.alpha=0.1,0.2", "batch_size=range(8,32,8)")
    assert [grid.budget(space) for space in grid.spaces] == [6]


def test_trials_do_without_rows_that_only_the_end_needs():
    plan = planned("search=random", ALPHA, "controls=[self_teacher]", "latency=true")
    job = plan.trial_job(plan.spaces[0], ["distillation.alpha=0.5"], 3)
    assert job == ["controls=[]", "latency=false", "distillation.alpha=0.5", "seed=3"]
    assert "controls=[self_teacher]" in plan.spaces[0].fixed


def test_the_identity_is_that_of_the_trials():
    same = planned("search=random", ALPHA, "epochs=3").identity
    assert planned("epochs=3", "search=random", ALPHA).identity == same
    for other in (
        (ALPHA, "epochs=4"),
        (ALPHA, "epochs=3", "search.seeds=[0]"),
        ("distillation.alpha=interval(0,0.9)", "epochs=3"),
    ):
        assert planned("search=random", *other).identity != same


def test_the_number_of_training_images_is_searched_for_it_changes_no_validation_image():
    assert planned("search=grid", "dataset.limit=300,600", "dataset.student_fraction=1").total == 2
