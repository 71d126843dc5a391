"""Classes of unequal size: balanced accuracy, when it is told, and the weights of `class_weights=balanced`."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdexp.tasks.classification import metrics
from kdexp.tasks.imbalance import balanced_accuracy, class_accuracies, imbalanced, weights_of_classes

few = settings(max_examples=40, deadline=None)


@st.composite
def answers(draw):
    """Logits [N, K] of a network and labels [N], some classes without images."""
    labels = draw(st.lists(st.integers(0, 4), min_size=1, max_size=40))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    return torch.randn(len(labels), 6, generator=generator), torch.tensor(labels)


@few
@given(answers())
def test_balanced_accuracy_is_the_mean_of_the_recalls(given_answers):
    logits, labels = given_answers
    predicted = logits.argmax(1).tolist()
    recalls = []
    for label in set(labels.tolist()):
        mine = [guess for guess, true in zip(predicted, labels.tolist(), strict=True) if true == label]
        recalls.append(mine.count(label) / len(mine))
    assert balanced_accuracy(class_accuracies(logits, labels)) == pytest.approx(sum(recalls) / len(recalls))


@few
@given(answers(), st.integers(2, 5))
def test_repeating_the_images_of_a_class_does_not_change_it(given_answers, times):
    logits, labels = given_answers
    more = torch.arange(len(labels)).repeat_interleave(torch.where(labels == labels[0], times, 1))
    before, after = (balanced_accuracy(class_accuracies(logits[rows], labels[rows])) for rows in (slice(None), more))
    assert before == pytest.approx(after)


@pytest.mark.parametrize(
    ("counts", "told"), [([5, 10], False), ([5, 11], True), ([7, 7, 0], False), ([1, 3, 0], True), ([0, 0], False)]
)
def test_classes_are_imbalanced_from_more_than_twice_the_images(counts, told):
    assert imbalanced(counts) is told


def test_the_stored_measures_tell_of_imbalance_only_where_there_is_one():
    logits = torch.eye(3)[torch.zeros(9, dtype=torch.long)]
    assert not {"balanced_accuracy", "class_accuracies", "majority"} & set(metrics(logits, torch.tensor([0] * 6 + [1] * 3)))
    skewed = metrics(logits, torch.tensor([0] * 7 + [1] * 2))
    assert (skewed["balanced_accuracy"], skewed["majority"]) == (0.5, 7 / 9)
    assert skewed["class_accuracies"] == [1.0, 0.0, None]


@few
@given(st.lists(st.integers(0, 30), min_size=2, max_size=6).filter(any))
def test_balanced_weights_give_every_class_the_same_total_and_have_mean_1_over_the_images(counts):
    labels = torch.tensor([number for number, count in enumerate(counts) for _ in range(count)])
    weights = weights_of_classes("balanced", labels, len(counts))
    totals = {round(float(weight) * count, 4) for weight, count in zip(weights, counts, strict=True) if count}
    assert len(totals) == 1 and float(weights[labels].mean()) == pytest.approx(1)
    assert all(float(weight) == 0 for weight, count in zip(weights, counts, strict=True) if not count)


def test_equal_classes_have_weight_1():
    assert weights_of_classes("balanced", torch.tensor([0, 1, 2, 2, 1, 0]), 3).tolist() == [1, 1, 1]
