import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdexp.tasks.classification import agreement, calibration_error, correct, metrics

few = settings(max_examples=25, deadline=None)


@st.composite
def answers(draw, classes):
    """Logits [N, K] of a network and labels [N]."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    rows, width = draw(st.integers(1, 30)), draw(classes)
    logits = draw(st.sampled_from([0.1, 1.0, 10.0])) * torch.randn(rows, width, generator=generator)
    return logits, torch.randint(width, (rows,), generator=generator)


def softmax_by_hand(row):
    exponentials = [math.exp(value - max(row)) for value in row]
    return [value / sum(exponentials) for value in exponentials]


def calibration_error_by_hand(logits, labels, bins):
    answered = []
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        probabilities = softmax_by_hand(row)
        answered.append((max(probabilities), probabilities.index(max(probabilities)) == label))
    total = 0.0
    for number in range(bins):
        inside = [answer for answer in answered if number / bins < answer[0] <= (number + 1) / bins]
        if inside:
            confidence = sum(answer[0] for answer in inside) / len(inside)
            accuracy = sum(answer[1] for answer in inside) / len(inside)
            total += len(inside) / len(answered) * abs(accuracy - confidence)
    return total


def certain(*confidences):
    """Returns two-class logits that give the first class these probabilities."""
    return torch.tensor([[math.log(confidence), math.log1p(-confidence)] for confidence in confidences])


def test_metrics_of_three_images_have_the_values_worked_out_on_paper():
    found = metrics(certain(0.9, 0.6, 0.6), torch.tensor([0, 0, 1]))
    assert found["top1"] == pytest.approx(2 / 3)
    assert found["nll"] == pytest.approx(-(math.log(0.9) + math.log(0.6) + math.log(0.4)) / 3, rel=1e-5)
    assert found["ece"] == pytest.approx((0.1 + 2 * 0.1) / 3, rel=1e-5)
    assert set(found) == {"top1", "nll", "ece"}


@few
@given(answers(st.integers(2, 8)))
def test_accuracy_and_likelihood_equal_naive_sums(given_answers):
    logits, labels = given_answers
    rows = list(zip(logits.tolist(), labels.tolist(), strict=True))
    found = metrics(logits, labels)
    assert found["top1"] == pytest.approx(sum(row.index(max(row)) == label for row, label in rows) / len(rows))
    nll = -sum(math.log(softmax_by_hand(row)[label]) for row, label in rows) / len(rows)
    assert found["nll"] == pytest.approx(nll, rel=1e-4, abs=1e-6)


def test_correct_counts_the_rows_that_are_largest_at_their_label():
    logits = torch.tensor([[0.0, 2.0, 1.0], [5.0, 2.0, 1.0], [0.0, 0.0, 1.0]])
    assert int(correct(logits, torch.tensor([1, 1, 2]))) == 2


@pytest.mark.parametrize(("classes", "present"), [(19, False), (20, True), (100, True)])
def test_top5_is_reported_from_20_classes_on(classes, present):
    assert ("top5" in metrics(torch.randn(3, classes), torch.zeros(3, dtype=torch.long))) is present


def test_top5_counts_labels_among_the_five_largest():
    logits = torch.arange(20.0).repeat(4, 1)
    found = metrics(logits, torch.tensor([19, 15, 14, 0]))
    assert found["top5"] == 0.5
    assert found["top1"] == 0.25


@few
@given(answers(st.integers(20, 25)))
def test_top5_equals_a_naive_ranking(given_answers):
    logits, labels = given_answers
    ranks = [sorted(row, reverse=True).index(row[label]) for row, label in zip(logits.tolist(), labels.tolist(), strict=True)]
    assert metrics(logits, labels)["top5"] == pytest.approx(sum(rank < 5 for rank in ranks) / len(ranks))


@few
@given(answers(st.integers(2, 6)), st.sampled_from([1, 4, 15]))
def test_calibration_error_equals_a_naive_sum_over_bins(given_answers, bins):
    logits, labels = given_answers
    expected = calibration_error_by_hand(logits, labels, bins)
    assert calibration_error(logits, labels, bins) == pytest.approx(expected, abs=1e-5)


def test_gaps_of_different_bins_do_not_cancel_but_those_within_a_bin_do():
    logits, labels = certain(0.95, 0.55), torch.tensor([0, 1])
    assert calibration_error(logits, labels, bins=15) == pytest.approx((0.05 + 0.55) / 2, rel=1e-5)
    assert calibration_error(logits, labels, bins=1) == pytest.approx((0.55 - 0.05) / 2, rel=1e-5)


def test_full_confidence_is_in_the_last_bin():
    logits = torch.tensor([[1000.0, 0.0], [0.0, 1000.0]])
    assert calibration_error(logits, torch.tensor([0, 1])) == 0.0
    assert calibration_error(logits, torch.tensor([1, 0])) == 1.0
    assert calibration_error(logits, torch.tensor([0, 0])) == 0.5


def test_a_confidence_on_a_boundary_belongs_to_the_lower_bin():
    # Confidences 0.5 (right) and 0.75 (wrong): apart in two bins |−0.5| + 0.75, together they would be |−0.5 + 0.75|.
    logits = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0]])
    assert calibration_error(logits, torch.tensor([0, 1]), bins=2) == pytest.approx((0.5 + 0.75) / 2)


def test_agreement_is_the_share_of_equal_answers():
    ours = torch.tensor([[1.0, 0.0], [0.0, 1.0], [3.0, 2.0], [1.0, 5.0]])
    theirs = torch.tensor([[9.0, 0.0], [0.0, 0.1], [0.0, 2.0], [1.0, 1.5]])
    assert agreement(ours, theirs) == 0.75


@few
@given(answers(st.integers(2, 6)))
def test_a_network_agrees_with_itself_and_with_its_scaled_logits(given_answers):
    logits, _ = given_answers
    assert agreement(logits, logits) == 1.0
    assert agreement(logits, 4 * logits) == 1.0
    assert agreement(logits, -logits) == 0.0
