"""FitNets: regressors for every shape, and the error of their outputs."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loss_bench import between, feature_method, few, own_term, parameter_count, random
from torch import nn

from kdexp.distillation.fitnet import FitNet
from kdexp.errors import UnknownLayer

CONVOLUTIONS = [
    # student's size, teacher's size, kernel, stride, size of the result
    ((8, 8), (8, 8), (1, 1), (1, 1), (8, 8)),
    ((8, 8), (4, 4), (3, 3), (2, 2), (4, 4)),
    ((2, 2), (1, 1), (3, 3), (2, 2), (1, 1)),
    ((4, 6), (2, 3), (3, 3), (2, 2), (2, 3)),
    ((4, 4), (8, 8), (4, 4), (2, 2), (8, 8)),
    ((8, 8), (7, 7), (2, 2), (1, 1), (7, 7)),
    ((8, 8), (2, 2), (7, 7), (1, 1), (2, 2)),
    ((8, 6), (4, 6), (5, 1), (1, 1), (4, 6)),
    ((4, 4), (16, 16), (3, 3), (1, 1), (4, 4)),
    ((4, 4), (5, 5), (3, 3), (1, 1), (4, 4)),
    ((4, 6), (6, 4), (3, 3), (1, 1), (4, 6)),
]
sides = st.integers(1, 9)


def windows(image, kernel, stride, padding):
    """Returns the windows [N, C, k, k] of a convolution on a map [N, C, H, W] by position (row, column)."""
    padded = np.pad(image, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    heights = range(0, padded.shape[2] - kernel[0] + 1, stride)
    widths = range(0, padded.shape[3] - kernel[1] + 1, stride)
    return [[padded[:, :, y : y + kernel[0], x : x + kernel[1]] for x in widths] for y in heights]


def convolved(image, layer):
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    rows = windows(image, layer.kernel_size, layer.stride[0], layer.padding[0])
    positions = [[np.einsum("nikl,oikl->no", window, weight) for window in row] for row in rows]
    return np.array(positions).transpose(2, 3, 0, 1) + bias[:, None, None]


def convolved_transposed(image, layer):
    """A transposed convolution: adds the weighted kernel for each value to a map twice as large, and crops its border of 1."""
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    count, _, height, width = image.shape
    result = np.zeros((count, weight.shape[1], 2 * height + 2, 2 * width + 2))
    for y in range(height):
        for x in range(width):
            result[:, :, 2 * y : 2 * y + 4, 2 * x : 2 * x + 4] += np.einsum("ni,iokl->nokl", image[:, :, y, x], weight)
    return result[:, :, 1:-1, 1:-1] + bias[:, None, None]


def normalised(features):
    """Batch norm with initial weight and bias, then ReLU."""
    axes = (0, *range(2, features.ndim))
    centred = features - features.mean(axes, keepdims=True)
    return np.maximum(centred / np.sqrt((centred**2).mean(axes, keepdims=True) + 1e-5), 0)


def averaged(features, height, width):
    """Pools over blocks that divide the map."""
    blocks = features.reshape(*features.shape[:2], height, features.shape[2] // height, width, features.shape[3] // width)
    return blocks.mean((3, 5))


@pytest.mark.parametrize(
    ("ours", "theirs"), [((4, 4), (4, 4)), ((4, 6), (2, 3)), ((5, 4), (3, 3)), ((2, 3), (4, 6)), ((2, 2), (8, 4))]
)
def test_fitnet_is_the_error_of_a_regressor_by_hand(ours, theirs):
    student, teacher = random(3, 2, *ours), random(3, 4, *theirs, seed=1)
    method, *both = feature_method(FitNet, student, teacher)
    layer = method.regressors[0][0]
    by_hand = convolved_transposed if isinstance(layer, nn.ConvTranspose2d) else convolved
    answer = normalised(by_hand(student.numpy(), layer))
    target = averaged(teacher.numpy(), *answer.shape[2:])
    assert float(own_term(method, *both).detach()) == pytest.approx(((answer - target) ** 2).mean(), rel=1e-9)


def test_fitnet_of_vectors_is_a_linear_layer_by_hand():
    student, teacher = random(5, 3), random(5, 4, seed=1)
    method, *both = feature_method(FitNet, student, teacher)
    layer = method.regressors[0][0]
    answer = normalised(student.numpy() @ layer.weight.detach().numpy().T + layer.bias.detach().numpy())
    assert float(own_term(method, *both).detach()) == pytest.approx(((answer - teacher.numpy()) ** 2).mean(), rel=1e-9)


@pytest.mark.parametrize(("ours", "theirs", "kernel", "stride", "size"), CONVOLUTIONS)
def test_the_regressors_convolution_follows_from_the_sizes(ours, theirs, kernel, stride, size):
    student = random(2, 3, *ours)
    method, _, _ = feature_method(FitNet, student, random(2, 5, *theirs))
    convolution, norm, activation = method.regressors[0]
    assert isinstance(convolution, nn.ConvTranspose2d) == (ours == (4, 4) and theirs == (8, 8))
    assert (convolution.kernel_size, convolution.stride) == (kernel, stride)
    assert convolution.bias is not None
    assert isinstance(norm, nn.BatchNorm2d) and isinstance(activation, nn.ReLU)
    assert method.regressors[0](student).shape == (2, 5, *size)


@few
@given(sides, sides, sides, sides)
def test_maps_of_any_two_sizes_can_be_compared(height, width, other_height, other_width):
    student = random(2, 2, height, width).requires_grad_()
    method, *both = feature_method(FitNet, student, random(2, 3, other_height, other_width, seed=1))
    term = own_term(method, *both)
    term.backward()
    assert term.isfinite() and student.grad.isfinite().all()


def test_a_student_whose_regressed_map_is_the_teachers_has_no_loss():
    student = random(4, 3, 5, 5)
    method, *both = feature_method(FitNet, student, random(4, 6, 5, 5))
    both[1].features["theirs"] = method.regressors[0](student).detach()
    assert float(own_term(method, *both).detach()) == 0


def test_the_students_scale_and_offset_do_not_matter():
    student, teacher = random(4, 3, 5, 5), random(4, 6, 5, 5, seed=1)
    method, *both = feature_method(FitNet, student, teacher)
    method.regressors[0][1].eps = 1e-12
    before = float(own_term(method, *both).detach())
    both[0].features["ours"] = 7 * student + 3
    assert float(own_term(method, *both).detach()) == pytest.approx(before, rel=1e-9)


@pytest.mark.parametrize("shape", [(3, 2, 4, 4), (5, 2)])
def test_fitnets_gradient_equals_finite_differences(shape):
    student = random(*shape).requires_grad_()
    method, *both = feature_method(FitNet, student, random(shape[0], 3, *shape[2:], seed=1))

    def loss(features):
        both[0].features["ours"] = features
        return own_term(method, *both)

    assert torch.autograd.gradcheck(loss, student)


def test_fitnet_trains_its_regressor_and_the_student():
    student = random(2, 2, 4, 4).requires_grad_()
    method, *both = feature_method(FitNet, student, random(2, 3, 4, 4, seed=1))
    own_term(method, *both).backward()
    convolution, norm, _ = method.regressors[0]
    assert all(tensor.grad.abs().sum() > 0 for tensor in (student, convolution.weight, norm.weight, norm.bias))


def test_large_features_do_not_overflow():
    student = (1e6 * random(4, 3, 4, 4)).bfloat16().float().requires_grad_()
    method, *both = feature_method(FitNet, student, (1e6 * random(4, 2, 4, 4, seed=1)).bfloat16().float())
    term = own_term(method, *both)
    term.backward()
    assert term.isfinite() and student.grad.isfinite().all()


@pytest.mark.slow
def test_fitnet_compares_the_second_stages():
    method = between(FitNet, "resnet8x4", "resnet32x4")
    assert method._pairs == [("stages.1", "stages.1")]
    assert parameter_count(method) == 16_768


@pytest.mark.slow
@pytest.mark.parametrize(
    ("student", "teacher", "kernel"),
    [("vgg8", "resnet32x4", (4, 4)), ("resnet8x4", "vgg13", (3, 3)), ("mobilenetv2_half", "vgg13", (1, 1))],
)
def test_fitnet_compares_families_whose_second_stages_differ_in_size(student, teacher, kernel):
    method = between(FitNet, student, teacher)
    assert method.regressors[0][0].kernel_size == kernel


@pytest.mark.slow
def test_a_layer_named_for_one_network_is_paired_with_the_second_stage_of_the_other():
    method = between(FitNet, "resnet8x4", "resnet32x4", student_layers=["stages.2"])
    assert method._pairs == [("stages.2", "stages.1")]


@pytest.mark.slow
def test_a_network_without_a_second_stage_needs_a_named_layer():
    with pytest.raises(UnknownLayer, match="^LightNN declares no second_stage, so its layers must be named$"):
        between(FitNet, "lightnn", "resnet32x4")


@pytest.mark.slow
def test_every_pair_of_named_layers_has_its_own_regressor():
    layers = ["stages.0", "stages.2"]
    method = between(FitNet, "resnet8x4", "resnet32x4", student_layers=layers, teacher_layers=layers, weight=100.0)
    assert [regressor[0].out_channels for regressor in method.regressors] == [64, 256]
    assert method.describe() == "CE + 100 FitNet"


@pytest.mark.parametrize(
    ("ours", "theirs", "sizes"),
    [
        ((16, 8, 8), (64,), r"not 16×8×8 \(student\) with 64 \(teacher\)"),
        ((49, 32), (49, 64), r"not 49×32 \(student\) with 49×64 \(teacher\)"),
    ],
)
def test_fitnet_refuses_features_that_it_can_not_regress(ours, theirs, sizes):
    with pytest.raises(ValueError, match=f"^fitnet compares .*{sizes}; choose other student_layers or teacher_layers$"):
        feature_method(FitNet, random(2, *ours), random(2, *theirs))
