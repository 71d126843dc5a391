"""Similarity-preserving distillation."""

import math

import pytest
import torch
from hypothesis import given
from loss_bench import between, feature_method, few, halves, own_term, random

from kdexp.distillation.sp import SimilarityPreserving


def sp(ours, theirs):
    return own_term(*feature_method(SimilarityPreserving, ours, theirs))


def similarities_by_hand(vectors):
    products = [[sum(a * b for a, b in zip(u, v, strict=True)) for v in vectors] for u in vectors]
    return [[value / math.sqrt(sum(other**2 for other in row)) for value in row] for row in products]


def sp_by_hand(ours, theirs):
    tables = (similarities_by_hand(features.flatten(1).tolist()) for features in (ours, theirs))
    squares = [(a - b) ** 2 for rows in zip(*tables, strict=True) for a, b in zip(*rows, strict=True)]
    return sum(squares) / len(ours) ** 2


@few
@given(halves(4, 2, 2, 3), halves(4, 5))
def test_similarity_preserving_equals_loops(ours, theirs):
    assert float(sp(ours, theirs)) == pytest.approx(sp_by_hand(ours, theirs), rel=1e-9, abs=1e-12)


def test_images_that_only_one_network_distinguishes_have_the_loss_worked_out_by_hand():
    apart, alike = torch.eye(2, dtype=torch.float64), torch.ones(2, 3, dtype=torch.float64)
    half = math.sqrt(0.5)
    assert float(sp(apart, alike)) == pytest.approx((2 * (1 - half) ** 2 + 2 * half**2) / 4)


def test_opposite_images_are_not_alike():
    opposite, alike = torch.tensor([[1.0], [-1.0]]), torch.ones(2, 1)
    assert float(sp(opposite, alike)) == pytest.approx(2 * (2 * math.sqrt(0.5)) ** 2 / 4)


def test_rotations_and_scales_of_the_features_do_not_matter():
    ours, theirs = random(5, 2, 3, 3), random(5, 7, seed=1)
    rotation, _ = torch.linalg.qr(random(18, 18, seed=2))
    turned = (0.3 * ours.flatten(1) @ rotation).reshape(5, 18)
    before = float(sp(ours, theirs))
    assert float(sp(turned, 40 * theirs)) == pytest.approx(before, rel=1e-9)
    assert float(sp(-ours, theirs.flip(1))) == pytest.approx(before, rel=1e-9)


def test_the_order_of_the_images_matters_only_between_the_networks():
    ours, theirs = random(4, 6), random(4, 7, seed=1)
    order = torch.tensor([2, 0, 3, 1])
    assert float(sp(ours[order], theirs[order])) == pytest.approx(float(sp(ours, theirs)), rel=1e-9)
    assert float(sp(ours[order], theirs)) != pytest.approx(float(sp(ours, theirs)), rel=1e-3)


def test_a_scale_of_one_image_alone_is_noticed():
    ours, theirs = random(4, 6), random(4, 7, seed=1)
    changed = ours.clone()
    changed[0] *= 5
    assert float(sp(changed, theirs)) != pytest.approx(float(sp(ours, theirs)), rel=1e-3)


def test_a_student_with_the_teachers_features_has_no_loss_and_no_gradient():
    theirs = random(5, 2, 3, 3)
    ours = theirs.clone().requires_grad_()
    term = sp(ours, theirs)
    term.backward()
    assert float(term.detach()) == 0
    assert torch.equal(ours.grad, torch.zeros_like(ours))


def test_a_batch_given_twice_has_half_the_loss():
    # Rows of length 1 spread over twice as many images: each similarity shrinks by √2.
    ours, theirs = random(3, 5), random(3, 4, seed=1)
    assert float(sp(ours.repeat(2, 1), theirs.repeat(2, 1))) == pytest.approx(float(sp(ours, theirs)) / 2, rel=1e-9)


def test_a_single_image_has_no_loss():
    ours = random(1, 5).requires_grad_()
    term = sp(ours, random(1, 4, seed=1))
    term.backward()
    assert float(term.detach()) == pytest.approx(0, abs=1e-24)
    assert ours.grad.abs().max() < 1e-12


def test_the_loss_is_at_most_four_by_the_number_of_images():
    for seed in range(5):
        assert 0 <= float(sp(random(6, 3, seed=seed), random(6, 2, seed=seed + 10))) <= 4 / 6


def test_the_gradient_equals_finite_differences():
    theirs = random(4, 5, seed=1)
    assert torch.autograd.gradcheck(lambda ours: sp(ours, theirs), random(4, 2, 2, 2).requires_grad_())


@pytest.mark.parametrize("scale", [1e-2, 6e4, 1e6])
def test_small_and_large_features_give_what_they_give_at_scale_one(scale):
    ours, theirs = (random(8, 16, 4, 4, seed=seed).bfloat16().float() for seed in (0, 1))
    assert float(sp(scale * ours, scale * theirs)) == pytest.approx(float(sp(ours, theirs)), rel=1e-4)


def test_images_without_features_have_a_finite_gradient():
    ours = torch.zeros(3, 2, 2, 2, requires_grad=True)
    term = sp(ours, random(3, 5).float())
    term.backward()
    assert term.isfinite() and ours.grad.isfinite().all()


@pytest.mark.slow
def test_maps_of_any_size_are_compared():
    method = between(SimilarityPreserving, "shufflenetv1", "wrn_40_2")
    assert method._pairs == [("stages.2", "stages.2")]
    assert list(method.parameters()) == []


def test_layers_with_different_numbers_of_rows_are_refused():
    with pytest.raises(ValueError, match=r"not 8 rows \(student\) with 2 \(teacher\)"):
        feature_method(SimilarityPreserving, random(8, 5), random(2, 5))
