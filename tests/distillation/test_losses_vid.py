"""Variational information distillation: the likelihood of the teacher's maps given the student's."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loss_bench import between, feature_method, few, halves, own_term, parameter_count, random
from torch import nn

from kdexp.distillation.vid import VariationalInformation


def made(ours, theirs):
    torch.manual_seed(0)
    return feature_method(VariationalInformation, ours, theirs)


def vid(ours, theirs):
    return own_term(*made(ours, theirs)).detach()


def mean_by_hand(pixel, layers):
    """Applies the three 1×1 convolutions at one position, from a list of channels to a list of channels."""
    for depth, weight in enumerate(layers):
        pixel = [sum(w * value for w, value in zip(row, pixel, strict=True)) for row in weight]
        pixel = [max(value, 0.0) for value in pixel] if depth < 2 else pixel
    return pixel


def vid_by_hand(method, ours, theirs):
    (likelihood,) = method.likelihoods
    layers = [layer.weight.flatten(1).tolist() for layer in likelihood.mean if isinstance(layer, nn.Conv2d)]
    variances = [math.log1p(math.exp(value)) + 1e-5 for value in likelihood.spread.flatten().tolist()]
    total, count = 0.0, 0
    positions = [features.permute(0, 2, 3, 1).flatten(0, 2).tolist() for features in (ours, theirs)]
    for student, teacher in zip(*positions, strict=True):
        for mean, value, variance in zip(mean_by_hand(student, layers), teacher, variances, strict=True):
            total += 0.5 * ((mean - value) ** 2 / variance + math.log(variance))
            count += 1
    return total / count


@few
@given(halves(2, 3, 2, 2), halves(2, 4, 2, 2), st.integers(0, 5))
def test_vid_equals_loops(ours, theirs, seed):
    method, *outputs = made(ours, theirs)
    with torch.no_grad():
        method.likelihoods[0].spread.copy_(3 * random(4, 1, 1, seed=seed))
    assert float(own_term(method, *outputs).detach()) == pytest.approx(vid_by_hand(method, ours, theirs), rel=1e-9)


def test_a_perfectly_predicted_teacher_costs_half_the_log_of_the_first_variance():
    ours = random(2, 3, 4, 4)
    method, *outputs = made(ours, random(2, 5, 4, 4))
    outputs[1].features["theirs"] = method.likelihoods[0].mean(ours).detach()
    assert float(own_term(method, *outputs).detach()) == pytest.approx(0.5 * math.log(5), rel=1e-6)


def test_the_first_variance_is_five_for_every_channel():
    (likelihood,) = made(random(1, 3, 2, 2), random(1, 7, 2, 2))[0].likelihoods
    assert likelihood.spread.shape == (7, 1, 1)
    torch.testing.assert_close(likelihood.spread.detach(), torch.full_like(likelihood.spread, 4.99323), atol=1e-5, rtol=0)
    torch.testing.assert_close(likelihood.variance.detach(), torch.full_like(likelihood.spread, 5.0), atol=1e-6, rtol=0)


def test_a_constant_student_has_the_teachers_mean_square_as_error():
    theirs = random(2, 5, 3, 3)
    expected = 0.5 * (theirs.square().mean() / 5 + math.log(5))
    assert float(vid(torch.zeros(2, 3, 3, 3, dtype=torch.float64), theirs)) == pytest.approx(float(expected), rel=1e-6)


def test_the_best_variance_is_the_mean_squared_error_and_the_loss_may_be_below_zero():
    ours, theirs = torch.zeros(2, 3, 3, 3, dtype=torch.float64), 0.1 * random(2, 4, 3, 3)
    method, *outputs = made(ours, theirs)
    spread = method.likelihoods[0].spread
    errors = theirs.square().mean((0, 2, 3))
    with torch.no_grad():
        spread.copy_(torch.expm1(errors - 1e-5).log().view(-1, 1, 1))
    term = own_term(method, *outputs)
    term.backward()
    assert float(term.detach()) == pytest.approx(float(0.5 * (1 + errors.log().mean())), rel=1e-9)
    assert float(term.detach()) < 0
    assert spread.grad.abs().max() < 1e-9


def test_the_variance_never_vanishes():
    method, *outputs = made(random(2, 3, 2, 2), random(2, 4, 2, 2, seed=1))
    with torch.no_grad():
        method.likelihoods[0].spread.fill_(-1e4)
    assert own_term(method, *outputs).isfinite()
    assert float(method.likelihoods[0].variance.min().detach()) == pytest.approx(1e-5)


def test_the_variances_are_trained_and_stored_with_the_rest():
    method, *outputs = made(random(2, 3, 2, 2), random(2, 4, 2, 2, seed=1))
    own_term(method, *outputs).backward()
    names = dict(method.named_parameters())
    assert "likelihoods.0.spread" in names and "likelihoods.0.spread" in method.state_dict()
    assert all(parameter.grad.abs().sum() > 0 for parameter in names.values())
    assert method.to("meta").likelihoods[0].spread.is_meta


def test_teachers_channels_may_come_in_any_order_once_the_mean_follows():
    ours, theirs = random(2, 3, 2, 2), random(2, 4, 2, 2, seed=1)
    method, *outputs = made(ours, theirs)
    before = float(own_term(method, *outputs).detach())
    order = torch.tensor([2, 0, 3, 1])
    last = method.likelihoods[0].mean[4]
    with torch.no_grad():
        last.weight.copy_(last.weight[order])
    outputs[1].features["theirs"] = theirs[:, order]
    assert float(own_term(method, *outputs).detach()) == pytest.approx(before, rel=1e-9)


def test_the_gradient_equals_finite_differences():
    ours = random(2, 3, 4, 2).requires_grad_()
    method, *outputs = made(ours, random(2, 2, 2, 2, seed=1))
    spread = method.likelihoods[0].spread

    def loss(features, _):
        outputs[0].features["ours"] = features
        return own_term(method, *outputs)

    assert torch.autograd.gradcheck(loss, (ours, spread))


def test_the_larger_map_is_averaged_first():
    ours, theirs = random(2, 3, 4, 4), random(2, 5, 2, 2, seed=1)
    averaged = ours.reshape(2, 3, 2, 2, 2, 2).mean((3, 5))
    assert float(vid(ours, theirs)) == pytest.approx(float(vid(averaged, theirs)), rel=1e-9)
    small, large = random(2, 3, 2, 2), random(2, 5, 4, 4, seed=1)
    averaged = large.reshape(2, 5, 2, 2, 2, 2).mean((3, 5))
    assert float(vid(small, large)) == pytest.approx(float(vid(small, averaged)), rel=1e-9)


def test_large_features_do_not_overflow():
    ours = (1e6 * random(4, 3, 4, 4)).bfloat16().float().requires_grad_()
    method, *outputs = made(ours, (1e6 * random(4, 2, 4, 4, seed=1)).bfloat16().float())
    term = own_term(method, *outputs)
    term.backward()
    assert term.isfinite() and ours.grad.isfinite().all()


@pytest.mark.slow
def test_three_stages_of_the_same_width_add_their_means_and_variances():
    method = between(VariationalInformation, "resnet8x4", "resnet32x4")
    assert method._pairs == [(f"stages.{position}",) * 2 for position in range(3)]
    assert parameter_count(method) == sum(3 * width**2 + width for width in (64, 128, 256))
    assert method.describe() == "CE + VID"


@pytest.mark.slow
def test_stages_of_different_sizes_and_widths_are_compared():
    method = between(VariationalInformation, "mobilenetv2_half", "resnet32x4")
    widths = [likelihood.mean[0].weight.shape[:2] for likelihood in method.likelihoods]
    assert [teacher for teacher, _ in widths] == [64, 128, 256]
    assert [student for _, student in widths] == [12, 16, 48]


@pytest.mark.parametrize("features", [(64,), (49, 32)])
def test_features_that_are_not_maps_are_refused(features):
    with pytest.raises(ValueError, match="only feature maps can be pooled to one size"):
        made(random(2, *features), random(2, *features))
