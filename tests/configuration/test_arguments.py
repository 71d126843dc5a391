import copy
import math
from typing import Annotated, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from kdexp.configuration.arguments import (
    LARGEST,
    SMALLEST,
    Checked,
    Count,
    Fraction,
    NonNegative,
    NonNegativeInt,
    Positive,
    Range,
    misfit,
    parameters,
    problems,
)
from kdexp.distillation.cosine import Cosine
from kdexp.distillation.mse_logits import MSELogits
from kdexp.errors import InvalidArguments, Problem, did_you_mean, listed
from kdexp.models.mlp import MLP
from kdexp.models.tutorial import LightNN

few = settings(max_examples=50, deadline=None)

NUMBER = "must be a finite number"
WHOLE = "must be a whole number"


class Base(Checked):
    def __init__(self, *, rate: Positive, mode: Literal["a", "b"] = "a"):
        self.rate, self.mode = rate, mode


class Middle(Base):
    def __init__(self, *, depth: Count, **shared):
        super().__init__(**shared)
        self.depth = depth


class Silent(Middle):
    """Has no constructor of its own."""


class Leaf(Silent):
    def __init__(self, *, rate: Fraction, name: str = "leaf", **shared):
        super().__init__(rate=rate, **shared)
        self.name = name


class Closed(Leaf):
    def __init__(self, *, only: bool):
        super().__init__(rate=1.0, depth=1)


class Network(nn.Module, Checked):
    def __init__(self, *, width: Count):
        super().__init__()
        self.layer = nn.Linear(width, 2)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (float, 0.5),
        (float, 3),
        (float, -1e38),
        (int, 3),
        (int, -3),
        (bool, True),
        (bool, False),
        (str, ""),
        (str, "0.5"),
        (list[float], []),
        (list[float], [1, 2.5]),
        (list[float], (1, 2.5)),
        (list[str], ["a"]),
        (list[Positive], [0.1, 3]),
        (Literal["a", "b"], "b"),
        (Literal[1, 2], 2),
        (float | None, None),
        (float | None, 2.0),
        (list[str] | None, None),
        (list[str] | None, ["a"]),
        (int | str, "a"),
        (int | str, 3),
        (Positive, 1e-9),
        (NonNegative, 0),
        (Fraction, 0),
        (Fraction, 1),
        (Count, 1),
        (NonNegativeInt, 0),
        (Positive | None, None),
        (Annotated[float, "a note that is no range"], -5.0),
        (object, object()),
    ],
)
def test_a_fitting_value_is_accepted(annotation, value):
    assert misfit(value, annotation) == ""


@pytest.mark.parametrize(
    ("annotation", "value", "sentence"),
    [
        (float, "0.5", NUMBER),
        (float, True, NUMBER),
        (float, None, NUMBER),
        (float, [0.5], NUMBER),
        (float, math.nan, NUMBER),
        (float, math.inf, NUMBER),
        (float, -math.inf, NUMBER),
        (int, 3.0, WHOLE),
        (int, "3", WHOLE),
        (int, False, WHOLE),
        (int, math.nan, WHOLE),
        (int, None, WHOLE),
        (bool, 1, "must be true or false"),
        (bool, "true", "must be true or false"),
        (bool, None, "must be true or false"),
        (str, 3, "must be a text"),
        (str, None, "must be a text"),
        (list[float], "ab", "must be a list, written [ab]"),
        (list[float], 0.5, "must be a list, written [a,b]"),
        (list[float], None, "must be a list, written [a,b]"),
        (list[float], [1.0, "2"], "each entry must be a finite number"),
        (list[Positive], [1.0, 0], "each entry must be above 0"),
        (list[int], [True], "each entry must be a whole number"),
        (Literal["a", "b"], "c", "must be one of a, b"),
        (Literal["a", "b"], None, "must be one of a, b"),
        (Literal[0, 1], True, "must be one of 0, 1"),
        (float | None, "x", "must be a finite number (or null)"),
        (Literal["a"] | None, "x", "must be a (or null)"),
        (int | str, 0.5, f"{WHOLE} or a text"),
        (Literal["a"] | list[Positive] | None, [1, 0], "each entry must be above 0 (or null)"),
        (Literal["a"] | list[Positive] | None, 3, "must be a or a list, written [a,b] (or null)"),
        (Positive, 0, "must be above 0"),
        (Positive, "1", NUMBER),
        (NonNegative, -1e-9, "must be at least 0"),
        (Fraction, 1.01, "must be at least 0 and at most 1"),
        (Fraction, math.nan, NUMBER),
        (Fraction | None, -0.1, "must be at least 0 and at most 1 (or null)"),
        (Count, 0, "must be at least 1"),
        (Count, 1.5, WHOLE),
        (NonNegativeInt, -1, "must be at least 0"),
        (Annotated[float, Range(at_least=0, below=1)], 1, "must be at least 0 and below 1"),
        (Annotated[float, Range(above=0.5, at_most=2)], 0.5, "must be above 0.5 and at most 2"),
    ],
)
def test_a_value_of_wrong_type_or_range_is_refused_with_a_sentence(annotation, value, sentence):
    assert misfit(value, annotation) == sentence


@few
@given(st.floats(-2, 2))
def test_fractions_are_the_numbers_from_0_to_1(value):
    assert (misfit(value, Fraction) == "") is (value == 0 or SMALLEST <= value <= 1)


@few
@given(st.floats(allow_nan=True, allow_infinity=True))
def test_numbers_beyond_float32_are_refused(value):
    assert (misfit(value, float) == "") is (value == 0 or SMALLEST <= abs(value) <= LARGEST)


@pytest.mark.parametrize(
    ("limits", "inside", "outside"),
    [
        (Range(at_least=1), [1, 2, 1e9], [0.999]),
        (Range(at_most=1), [1, -1e9], [1.001]),
        (Range(above=1), [1.001], [1]),
        (Range(below=1), [0.999], [1]),
        (Range(above=0, below=1), [0.5], [0, 1]),
    ],
)
def test_a_range_contains_its_closed_ends_only(limits, inside, outside):
    assert all(value in limits for value in inside)
    assert not any(value in limits for value in outside)


def test_all_problems_are_found_at_once():
    found = problems(Leaf, {"rate": 2.0, "mode": "c", "nam": "x", "name": 3})
    assert [str(problem) for problem in found] == [
        "rate=2.0: must be at least 0 and at most 1",
        "mode='c': must be one of a, b",
        "nam: unknown key; did you mean name? known: rate, mode, depth, name",
        "name=3: must be a text",
        "depth: missing",
    ]


def test_an_unknown_key_that_resembles_no_other_gets_no_suggestion():
    (found,) = problems(Base, {"rate": 1, "zzz": 2})
    assert str(found) == "zzz: unknown key; known: rate, mode"


def test_arguments_given_later_are_not_missing_and_can_not_be_set():
    assert problems(Middle, {"rate": 1.0}, given_later=["depth"]) == []
    (found,) = problems(Middle, {"rate": 1.0, "depth": 3}, given_later=["depth"])
    assert found == Problem("depth", "unknown key; known: rate, mode")


def test_a_plain_function_is_checked_by_its_own_signature():
    def make(size: Count, *rest: int, note: str = "", **others):
        return size, rest, note, others

    assert list(parameters(make)) == ["size", "note"]
    assert [str(found) for found in problems(make, {"size": 0})] == ["size=0: must be at least 1"]


def test_an_argument_without_annotation_accepts_anything():
    def make(anything):
        return anything

    assert problems(make, {"anything": object()}) == []


def test_shared_arguments_are_looked_up_through_the_class_hierarchy():
    assert list(parameters(Leaf)) == ["rate", "mode", "depth", "name"]
    assert list(parameters(Silent)) == ["rate", "mode", "depth"]


def test_a_subclass_may_narrow_a_shared_argument():
    assert parameters(Middle)["rate"][0] == Positive
    assert parameters(Leaf)["rate"][0] == Fraction
    assert Middle(rate=5.0, depth=1).rate == 5.0
    with pytest.raises(InvalidArguments, match=r"^rate=5\.0: must be at least 0 and at most 1$"):
        Leaf(rate=5.0, depth=1)


def test_a_constructor_without_shared_arguments_ends_the_search():
    assert list(parameters(Closed)) == ["only"]


def test_methods_take_their_own_arguments_and_those_of_all_methods():
    shared = {"temperature", "alpha", "ce_weight", "kd_weight", "student_view", "teacher_view", "unlabelled_ratio"}
    assert set(parameters(MSELogits)) == shared | {"weight"}
    assert set(parameters(Cosine)) == shared | {"weight", "student_layers", "teacher_layers"}


def test_a_checked_class_refuses_in_plain_python_with_every_problem():
    with pytest.raises(InvalidArguments) as refusal:
        Leaf(rate=0.5, depth=0, mode="c")
    assert [problem.name for problem in refusal.value.problems] == ["depth", "mode"]
    assert str(refusal.value) == "depth=0: must be at least 1; mode='c': must be one of a, b"
    assert isinstance(refusal.value, ValueError)


def test_a_refused_constructor_does_not_run():
    ran = []

    class Recording(Checked):
        def __init__(self, *, size: Count):
            ran.append(size)

    with pytest.raises(InvalidArguments):
        Recording(size=0)
    Recording(size=2)
    assert ran == [2]


@pytest.mark.parametrize("given_arguments", [{}, {"rate": 1.0, "dept": 2}])
def test_a_checked_class_refuses_missing_and_unknown_arguments(given_arguments):
    with pytest.raises(InvalidArguments, match="depth: missing"):
        Middle(**given_arguments)


def test_a_fitting_call_passes_its_arguments_on():
    leaf = Leaf(rate=0.5, depth=2, mode="b")
    assert (leaf.rate, leaf.depth, leaf.mode, leaf.name) == (0.5, 2, "b", "leaf")


def test_networks_refuse_bad_arguments():
    with pytest.raises(InvalidArguments, match=r"^hidden=\[0\]: each entry must be at least 1$"):
        MLP(num_classes=10, in_channels=1, image_size=8, hidden=[0])
    with pytest.raises(InvalidArguments, match=r"^dropout=1\.5: must be at least 0 and at most 1$"):
        LightNN(num_classes=10, in_channels=3, image_size=32, dropout=1.5)


def test_a_checked_network_can_be_copied():
    net = Network(width=3).train(False)
    twin = copy.deepcopy(net)
    assert type(twin) is Network
    assert not twin.training
    assert torch.equal(twin.layer.weight, net.layer.weight)
    with torch.no_grad():
        twin.layer.weight.add_(1)
    assert not torch.equal(twin.layer.weight, net.layer.weight)


def test_a_problem_is_put_under_the_path_of_its_node():
    assert str(Problem("lr", "=0: must be above 0").under("optimizer")) == "optimizer.lr=0: must be above 0"
    assert str(Problem("lr", "missing").under("optimizer")) == "optimizer.lr: missing"
    assert str(Problem("", "a sentence").under("optimizer")) == "optimizer: a sentence"
    assert str(Problem("", "a sentence")) == "a sentence"


def test_the_closest_known_word_is_suggested():
    assert did_you_mean("temprature", ["alpha", "temperature"]) == " did you mean temperature?"
    assert did_you_mean("xyz", ["alpha", "temperature"]) == ""


def test_words_are_listed_with_commas():
    assert listed(["a", "b"]) == "a, b"
    assert listed([]) == "none"
