"""Attention transfer in both of its forms."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loss_bench import LAYERS, WEIGHTS, between, feature_method, few, halves, own_term, random

from kdexp.distillation.at import AttentionTransfer
from kdexp.errors import InvalidArguments, UnknownLayer

modes = pytest.mark.parametrize("mode", ["code", "paper"])
powers = st.sampled_from([1.0, 1.5, 2.0, 4.0])


def made(ours, theirs, mode="code", power=2.0):
    return feature_method(AttentionTransfer, ours, theirs, mode=mode, power=power)


def at(*given, **knobs):
    return own_term(*made(*given, **knobs))


def attention_by_hand(image, power):
    """The attention of one map [C, H, W], a unit vector, by loops."""
    channels, height, width = len(image), len(image[0]), len(image[0][0])
    sums = [sum(abs(image[c][y][x]) ** power for c in range(channels)) for y in range(height) for x in range(width)]
    return [value / math.sqrt(sum(other**2 for other in sums)) for value in sums]


def at_by_hand(ours, theirs, mode, power):
    squares = []
    for student, teacher in zip(ours.tolist(), theirs.tolist(), strict=True):
        looks = zip(attention_by_hand(student, power), attention_by_hand(teacher, power), strict=True)
        squares.append([(ours - theirs) ** 2 for ours, theirs in looks])
    if mode == "code":
        return sum(map(sum, squares)) / sum(map(len, squares))
    return sum(math.sqrt(sum(row)) for row in squares) / len(squares)


@modes
@few
@given(halves(2, 3, 2, 3), halves(2, 4, 2, 3), powers)
def test_attention_transfer_equals_loops(mode, ours, theirs, power):
    assert float(at(ours, theirs, mode=mode, power=power)) == pytest.approx(at_by_hand(ours, theirs, mode, power), rel=1e-9)


def test_networks_that_attend_to_different_positions_are_sqrt_2_apart():
    ours, theirs = torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)
    ours[0, 0, 0, 0], theirs[0, 0, 1, 1] = 3.0, -5.0
    assert float(at(ours, theirs)) == pytest.approx(2 / 4)
    assert float(at(ours, theirs, mode="paper")) == pytest.approx(math.sqrt(2))


def test_uniform_attention_has_the_right_distance_to_attention_at_one_position():
    everywhere, somewhere = torch.ones(1, 2, 2, 2), torch.zeros(1, 1, 2, 2)
    somewhere[0, 0, 1, 0] = 1.0
    assert float(at(everywhere, somewhere)) == pytest.approx((3 * 0.25 + 0.25) / 4)
    assert float(at(everywhere, somewhere, mode="paper")) == pytest.approx(1.0)


@few
@given(halves(3, 2, 2, 4), halves(3, 3, 2, 4), powers)
def test_attention_maps_are_unit_vectors_without_negative_values(ours, theirs, power):
    assert 0 <= float(at(ours, theirs, power=power)) <= 2 / 8 + 1e-12
    assert 0 <= float(at(ours, theirs, mode="paper", power=power)) <= math.sqrt(2) + 1e-12


def scaled(maps):
    return maps * torch.linspace(0.01, 100, len(maps)).view(-1, 1, 1, 1)


INVARIANCES = {
    "channels in another order": lambda maps: maps.flip(1),
    "every image at a scale of its own": scaled,
    "signs": lambda maps: maps * random(*maps.shape, seed=9).sign(),
    "channels twice": lambda maps: maps.repeat(1, 2, 1, 1),
}


@modes
@pytest.mark.parametrize("name", INVARIANCES)
def test_attention_is_invariant_to_these_changes(mode, name):
    ours, theirs = random(3, 4, 3, 3), random(3, 5, 3, 3, seed=1)
    for changed in ((INVARIANCES[name](ours), theirs), (ours, INVARIANCES[name](theirs))):
        assert float(at(*changed, mode=mode)) == pytest.approx(float(at(ours, theirs, mode=mode)), rel=1e-9)


@modes
def test_attention_depends_on_positions_and_on_the_image(mode):
    ours, theirs = random(3, 4, 3, 3), random(3, 5, 3, 3, seed=1)
    before = float(at(ours, theirs, mode=mode))
    assert float(at(ours.flip(3), theirs, mode=mode)) != pytest.approx(before, rel=1e-3)
    assert float(at(ours.flip(0), theirs, mode=mode)) != pytest.approx(before, rel=1e-3)


@modes
@pytest.mark.parametrize("power", [1.0, 2.0, 4.0])
def test_a_student_with_the_teachers_maps_has_no_loss_and_a_gradient_of_zero(mode, power):
    theirs = random(3, 4, 3, 3)
    ours = theirs.clone().requires_grad_()
    term = at(ours, theirs, mode=mode, power=power)
    term.backward()
    assert float(term.detach()) == 0
    assert torch.equal(ours.grad, torch.zeros_like(ours))


@modes
@pytest.mark.parametrize("power", [1.0, 1.5, 2.0])
@pytest.mark.parametrize("dead", ["ours", "theirs", "both"])
def test_maps_of_zeros_have_a_finite_gradient(mode, power, dead):
    ours, theirs = (random(2, 3, 4, 4, seed=seed).float() for seed in (0, 1))
    ours[0] *= dead == "theirs"
    theirs[0] *= dead == "ours"
    ours.requires_grad_()
    term = at(ours, theirs, mode=mode, power=power)
    term.backward()
    assert term.isfinite() and ours.grad.isfinite().all()


@modes
@pytest.mark.parametrize("power", [2.0, 3.0])
def test_the_gradient_equals_finite_differences(mode, power):
    theirs = random(2, 3, 2, 2, seed=1)
    assert torch.autograd.gradcheck(lambda ours: at(ours, theirs, mode=mode, power=power), random(2, 2, 4, 2).requires_grad_())


@modes
@pytest.mark.parametrize("scale", [1e-3, 6e4, 1e8])
def test_small_and_large_features_give_what_they_give_at_scale_one(mode, scale):
    ours, theirs = (random(4, 3, 4, 4, seed=seed).bfloat16().float() for seed in (0, 1))
    assert float(at(scale * ours, scale * theirs, mode=mode)) == pytest.approx(float(at(ours, theirs, mode=mode)), rel=1e-4)


def test_the_larger_map_is_pooled_before_attention_is_computed():
    ours, theirs = random(2, 3, 4, 4), random(2, 5, 2, 2, seed=1)
    averaged = ours.reshape(2, 3, 2, 2, 2, 2).mean((3, 5))
    assert float(at(ours, theirs)) == pytest.approx(at_by_hand(averaged, theirs, "code", 2.0), rel=1e-9)
    assert float(at(theirs, ours)) == pytest.approx(at_by_hand(averaged, theirs, "code", 2.0), rel=1e-9)


def test_the_papers_form_is_the_larger_one_by_the_factor_that_the_yaml_states():
    ours, theirs = random(4, 3, 4, 4), random(4, 3, 4, 4, seed=1)
    assert float(at(ours, theirs, mode="paper")) >= 16 / math.sqrt(2) * float(at(ours, theirs))


@modes
def test_a_batch_given_twice_has_the_same_loss(mode):
    ours, theirs = random(3, 2, 3, 3), random(3, 2, 3, 3, seed=1)
    twice = at(ours.repeat(2, 1, 1, 1), theirs.repeat(2, 1, 1, 1), mode=mode)
    assert float(twice) == pytest.approx(float(at(ours, theirs, mode=mode)), rel=1e-9)


@pytest.mark.slow
def test_attention_is_compared_at_the_end_of_each_stage_that_both_networks_have():
    method = between(AttentionTransfer, "resnet8x4", "vgg13", mode="code", power=2.0)
    assert method._pairs == [(f"stages.{position}",) * 2 for position in range(3)]
    assert method.describe() == "CE + AT"
    with pytest.raises(UnknownLayer, match="^LightNN declares no stages, so its layers must be named$"):
        between(AttentionTransfer, "lightnn", "vgg13", mode="code", power=2.0)


@pytest.mark.parametrize("features", [(64,), (49, 32)])
def test_features_that_are_not_maps_are_refused(features):
    with pytest.raises(ValueError, match="only feature maps can be pooled to one size"):
        made(random(2, *features), random(2, 3, 4, 4))


@pytest.mark.parametrize(
    ("knob", "sentence"),
    [
        ({"mode": "square"}, "mode='square': must be one of code, paper"),
        ({"power": 0.5}, "power=0.5: must be at least 1"),
    ],
)
def test_knobs_out_of_range_are_refused(knob, sentence):
    with pytest.raises(InvalidArguments) as refusal:
        AttentionTransfer(**WEIGHTS | LAYERS | {"mode": "code", "power": 2.0} | knob)
    assert str(refusal.value) == sentence
