"""`kdexp-store prune --keep-best` and ages: which learners stay, and what is chosen."""

import argparse
import os
import time

import pytest
from crafted import craft, rewrite
from hypothesis import given
from hypothesis import strategies as st

from kdexp.commands import store as inventory
from kdexp.store.best import reasons_to_keep_best
from kdexp.store.pruning import days_of
from kdexp.store.size import size_words


def result(validation, *, model="net", dataset="digits", teacher=None, members=(), split_seed=0):
    """A stored result as far as the choice reads it; `validation` is None without validation images."""
    epoch = {} if validation is None else {"validation_accuracy": validation}
    data = {"fingerprint": "f" * 64, "val_fraction": 0.1, "split_seed": split_seed}
    spec = {"data": data, "teacher": teacher, "members": list(members)}
    return {"model": model, "dataset": dataset, "spec": spec, "history": [epoch]}


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xy"), st.integers(0, 1), st.floats(0, 1)), max_size=12))
def test_the_best_of_each_group_stays_and_nothing_else(learners):
    results = {
        str(number): result(validation, model=model, dataset=data, split_seed=seed)
        for number, (model, data, seed, validation) in enumerate(learners)
    }
    kept = reasons_to_keep_best(results)
    groups = {group: max(v for *other, v in learners if tuple(other) == group) for group in {row[:3] for row in learners}}
    assert {learners[int(key)][:3]: learners[int(key)][3] for key in kept} == groups and len(kept) == len(groups)


def test_what_the_best_depend_on_stays_too():
    results = {
        "student": result(0.9, teacher="ensemble"),
        "worse": result(0.8, teacher="other teacher"),
        "ensemble": result(None, model="big", members=["first", "gone"]),
        "rival": result(0.9, model="big"),
        "first": result(0.5, model="big", teacher="grandteacher"),
        "grandteacher": result(0.1, model="big"),
        "other teacher": result(0.2, model="big"),
    }
    kept = reasons_to_keep_best(results)
    assert set(kept) == {"student", "ensemble", "rival", "first", "grandteacher"}
    assert kept["student"] == "the best net on digits, validation 90.00 %" and kept["first"] == "ensemble depends on it"


def test_learners_without_validation_accuracy_are_not_compared():
    assert set(reasons_to_keep_best({"a": result(None), "b": result(None)})) == {"a", "b"}
    assert set(reasons_to_keep_best({"a": result(None), "b": result(0.1)})) == {"b"}


@pytest.mark.parametrize(
    ("text", "days"), [("30", 30), ("30d", 30), ("12h", 0.5), ("2w", 14), ("0", 0), (".5D", 0.5), ("1 w", 7)]
)
def test_ages(text, days):
    assert days_of(text) == days


@pytest.mark.parametrize("text", ["", "d", "-1d", "3m", "nan", "inf", "1e3", "٣d", "1d2h", "9" * 400])
def test_no_ages(text):
    with pytest.raises(argparse.ArgumentTypeError, match="is not an age, such as 12h, 30d or 2w"):
        days_of(text)


def test_sizes():
    assert [size_words(size) for size in (0, 123_456, 12_345_678, 2_500_000_000)] == [
        "0.00 MB",
        "0.12 MB",
        "12.3 MB",
        "2.50 GB",
    ]


@pytest.fixture
def seeds(tmp_path):
    """Learners of one network with rising validation accuracy; the first and the last are 40 days old."""
    long_ago, made = time.time() - 40 * 86_400, []
    for seed in range(4):
        learner = craft(tmp_path / "store", seed=seed)
        epoch = {"epoch": 1, "loss": 1.0, "train_accuracy": 0.5, "validation_accuracy": 0.5 + seed / 10}
        rewrite(learner, history=[epoch])
        if seed in (0, 3):
            os.utime(learner, (long_ago, long_ago))
        made.append(learner)
    return made


@pytest.mark.parametrize(
    ("words", "removed"),
    [
        (["--older-than", "30d"], {0, 3}),
        (["--older-than", "30d", "--keep-best"], {0}),
        (["--keep-best"], {0, 1, 2}),
        (["--older-than", "6w", "--keep-best"], set()),
        (["--all", "--keep-best"], {0, 1, 2}),
    ],
)
def test_both_options_combine(seeds, tmp_path, call_main, words, removed):
    def prune(*more):
        return call_main(inventory.main, "kdexp-store", "prune", *words, *more, "--store", tmp_path / "store", columns=200)

    code, preview = prune()
    assert code == 0 and all(learner.is_dir() for learner in seeds) and "nothing was removed" in preview
    if "--keep-best" in words and "6w" not in words:
        assert f"{seeds[3].name}  finished  net on digits" in preview
        assert "kept: the best net on digits, validation 80.00 %" in preview
    assert prune("--yes")[0] == 0
    assert {number for number, learner in enumerate(seeds) if not learner.is_dir()} == removed
