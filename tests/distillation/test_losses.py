import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from loss_bench import (
    LAYERS,
    START,
    WEIGHTS,
    batch_of,
    feature_method,
    few,
    halves,
    own_term,
    pairs_within,
    probe,
    random,
    temperatures,
)
from torch import nn

from kdexp.distillation.base import soft_target_loss
from kdexp.distillation.cosine import Cosine
from kdexp.distillation.hint import Hint
from kdexp.distillation.kd import KD
from kdexp.distillation.mse_logits import MSELogits
from kdexp.distillation.none import NoDistillation
from kdexp.errors import InvalidArguments, UnknownLayer
from kdexp.models.tutorial import DeepNN, LightNN
from kdexp.network.capture import Capture, Outputs


def kd(**changed):
    return KD(**WEIGHTS | changed)


def cosine(ours, theirs):
    return own_term(*feature_method(Cosine, ours, theirs))


def softmax_by_hand(row):
    exponentials = [math.exp(value - max(row)) for value in row]
    return [value / sum(exponentials) for value in exponentials]


def soft_target_loss_by_hand(student, teacher, temperature):
    total = 0.0
    for answer, target in zip(student.tolist(), teacher.tolist(), strict=True):
        q = softmax_by_hand([value / temperature for value in answer])
        p = softmax_by_hand([value / temperature for value in target])
        total += sum(pk * (math.log(pk) - math.log(qk)) for pk, qk in zip(p, q, strict=True) if pk > 0)
    return temperature**2 * total / len(student)


@few
@given(pairs_within(8), temperatures)
def test_soft_target_loss_equals_a_sum_written_by_hand(logits, temperature):
    student, teacher = torch.from_numpy(logits)
    expected = soft_target_loss_by_hand(student, teacher, temperature)
    assert float(soft_target_loss(student, teacher, temperature)) == pytest.approx(expected, rel=1e-9, abs=1e-10)


def test_soft_target_loss_of_two_classes_has_the_value_worked_out_on_paper():
    student, teacher = torch.tensor([[math.log(3.0), 0.0]]), torch.zeros(1, 2)
    assert float(soft_target_loss(student, teacher, 1.0)) == pytest.approx(0.5 * math.log(4 / 3), abs=1e-6)
    assert float(soft_target_loss(2 * student, teacher, 2.0)) == pytest.approx(4 * 0.5 * math.log(4 / 3), abs=1e-6)


@few
@given(pairs_within(3))
def test_at_high_temperature_the_soft_target_loss_is_the_centred_squared_distance(logits):
    student, teacher = torch.from_numpy(logits)
    distance = student - teacher
    centred = distance - distance.mean(1, keepdim=True)
    limit = centred.square().sum(1).mean() / (2 * student.shape[1])
    assert float(soft_target_loss(student, teacher, 3e5)) == pytest.approx(float(limit), abs=2e-3)


def test_the_high_temperature_limit_has_the_value_worked_out_on_paper():
    student = torch.tensor([[3.0, 0.0, 0.0]], dtype=torch.float64)
    assert float(soft_target_loss(student, torch.zeros_like(student), 1e5)) == pytest.approx(1.0, abs=1e-3)


@few
@given(pairs_within(8), temperatures, st.floats(-20, 20, width=32), st.floats(-20, 20, width=32))
def test_soft_target_loss_ignores_a_constant_added_to_a_row(logits, temperature, ours, theirs):
    student, teacher = torch.from_numpy(logits)
    shifted_student, shifted_teacher = student.clone(), teacher.clone()
    shifted_student[0] += ours
    shifted_teacher[-1] += theirs
    shifted = soft_target_loss(shifted_student, shifted_teacher, temperature)
    assert float(shifted) == pytest.approx(float(soft_target_loss(student, teacher, temperature)), abs=1e-9)


@few
@given(pairs_within(8), temperatures)
def test_equal_logits_give_no_loss_and_no_gradient(logits, temperature):
    teacher = torch.from_numpy(logits[1])
    student = teacher.clone().requires_grad_()
    loss = soft_target_loss(student, teacher, temperature)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert student.grad.abs().max() < 1e-12


@few
@given(pairs_within(8), temperatures)
def test_gradient_is_the_difference_of_the_softened_probabilities(logits, temperature):
    student, teacher = torch.from_numpy(logits)
    student.requires_grad_()
    soft_target_loss(student, teacher, temperature).backward()
    difference = (student.detach() / temperature).softmax(1) - (teacher / temperature).softmax(1)
    torch.testing.assert_close(student.grad, temperature / len(student) * difference, rtol=1e-9, atol=1e-11)


@few
@given(pairs_within(8), st.integers(0, 4))
def test_a_one_hot_teacher_at_temperature_one_is_cross_entropy(logits, label):
    student = torch.from_numpy(logits[0])
    labels = torch.full((len(student),), label % student.shape[1])
    teacher = 1000.0 * F.one_hot(labels, student.shape[1]).double()
    expected = F.cross_entropy(student, labels)
    assert float(soft_target_loss(student, teacher, 1.0)) == pytest.approx(float(expected), abs=1e-10)


@few
@given(pairs_within(8), temperatures)
def test_a_batch_given_twice_has_the_same_loss(logits, temperature):
    student, teacher = torch.from_numpy(logits)
    once, twice = (soft_target_loss(student.repeat(n, 1), teacher.repeat(n, 1), temperature) for n in (1, 2))
    assert float(twice) == pytest.approx(float(once), rel=1e-9, abs=1e-12)


def test_classes_that_both_nets_rule_out_do_not_shrink_the_loss():
    student, teacher = random(4, 5, seed=1), random(4, 5, seed=2)
    wider = [F.pad(logits, (0, 95), value=-5000.0) for logits in (student, teacher)]
    assert float(soft_target_loss(*wider, 4.0)) == pytest.approx(float(soft_target_loss(student, teacher, 4.0)), rel=1e-9)


def test_a_soft_target_of_zero_contributes_nothing():
    student = torch.tensor([[0.5, -1.0, 2.0]])
    teacher = torch.tensor([[1.0, 0.0, -1000.0]])
    assert teacher.softmax(1)[0, 2] == 0
    expected = soft_target_loss_by_hand(student, teacher, 1.0)
    assert float(soft_target_loss(student, teacher, 1.0)) == pytest.approx(expected, rel=1e-5)


def test_soft_target_loss_of_far_apart_fp32_logits_is_finite_with_a_finite_gradient():
    student = torch.tensor([[1e4, -1e4], [0.0, 3e3]]).requires_grad_()
    loss = soft_target_loss(student, -student.detach(), 1.0)
    loss.backward()
    assert float(loss.detach()) == pytest.approx((2e4 + 3e3) / 2)
    assert student.grad.isfinite().all()


@few
@given(pairs_within(8), st.floats(0, 1, width=32, allow_subnormal=False), temperatures)
def test_alpha_weights_the_hard_labels_and_one_minus_alpha_the_soft_ones(logits, alpha, temperature):
    student, teacher = torch.from_numpy(logits)
    batch = batch_of([0] * len(student))
    terms = kd(alpha=alpha, temperature=temperature).losses(batch, Outputs(student), Outputs(teacher), START)
    hard, soft = F.cross_entropy(student, batch.label), soft_target_loss_by_hand(student, teacher, temperature)
    assert float(sum(terms.values())) == pytest.approx(alpha * float(hard) + (1 - alpha) * soft, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(("alpha", "names"), [(1.0, ["ce"]), (0.0, ["kd"]), (0.3, ["ce", "kd"])])
def test_alpha_decides_which_terms_there_are(alpha, names):
    terms = kd(alpha=alpha).losses(batch_of([0, 1]), Outputs(random(2, 3)), Outputs(random(2, 3, seed=1)), START)
    assert list(terms) == names


def test_terms_are_already_weighted():
    student, teacher, batch = random(2, 3), random(2, 3, seed=1), batch_of([0, 2])
    terms = kd(ce_weight=0.5, kd_weight=3.0, temperature=2.0).losses(batch, Outputs(student), Outputs(teacher), START)
    assert float(terms["ce"]) == pytest.approx(0.5 * float(F.cross_entropy(student, batch.label)))
    assert float(terms["kd"]) == pytest.approx(3.0 * soft_target_loss_by_hand(student, teacher, 2.0))


def test_without_a_teacher_only_cross_entropy_is_left():
    terms = kd(alpha=0.3).losses(batch_of([0, 1]), Outputs(random(2, 3)), None, START)
    assert list(terms) == ["ce"]


@pytest.mark.parametrize("method", [kd, lambda **given: MSELogits(**WEIGHTS | {"weight": 1.0} | given)])
@pytest.mark.parametrize("weight", ["ce_weight", "kd_weight"])
def test_alpha_together_with_a_weight_is_refused_by_name(method, weight):
    with pytest.raises(InvalidArguments, match=r"alpha=0\.5: is short for ce_weight=alpha, kd_weight=1-alpha") as refusal:
        method(alpha=0.5, **{weight: 0.0})
    assert [problem.name for problem in refusal.value.problems] == ["alpha"]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"temperature": 0.0}, "temperature=0.0: must be above 0"),
        ({"alpha": 1.5}, "alpha=1.5: must be at least 0 and at most 1 (or null)"),
        ({"kd_weight": -1}, "kd_weight=-1: must be at least 0 (or null)"),
    ],
)
def test_weights_out_of_range_are_refused(given, sentence):
    with pytest.raises(InvalidArguments) as refusal:
        kd(**given)
    assert str(refusal.value) == sentence


@pytest.mark.parametrize(
    ("distiller", "words"),
    [
        (kd(alpha=0.1, temperature=4.0), "0.1 CE + 0.9 KD, T=4"),
        (kd(alpha=1.0, temperature=4.0), "CE"),
        (kd(temperature=2.5), "KD, T=2.5"),
        (kd(ce_weight=1.0, kd_weight=1.0), "CE + KD, T=1"),
        (MSELogits(**WEIGHTS, weight=1.0), "logit MSE"),
        (MSELogits(**WEIGHTS | {"alpha": 0.25}, weight=2.0), "0.25 CE + 0.75 KD + 2 logit MSE, T=1"),
        (Cosine(**WEIGHTS | LAYERS | {"ce_weight": 0.75, "weight": 0.25}), "0.75 CE + 0.25 cosine"),
        (Hint(**WEIGHTS | LAYERS | {"weight": 100.0}), "CE + 100 hint"),
        (NoDistillation(**WEIGHTS | {"alpha": 0.1, "temperature": 4.0}), "CE"),
    ],
)
def test_a_method_describes_its_objective(distiller, words):
    assert distiller.describe() == words


def test_no_distillation_ignores_the_teacher_and_the_weights():
    student, batch = random(3, 4), batch_of([1, 0, 3])
    method = NoDistillation(**WEIGHTS | {"alpha": 0.2, "temperature": 7.0})
    terms = method.losses(batch, Outputs(student), Outputs(random(3, 4, seed=1)), START)
    assert not method.uses_teacher
    assert list(terms) == ["ce"]
    assert torch.equal(terms["ce"], F.cross_entropy(student, batch.label))


def test_update_takes_one_step_on_the_terms_it_returns():
    student, descents = random(2, 3), []
    learner = SimpleNamespace(forward=lambda _: Outputs(student), descend=descents.append)
    terms = kd(alpha=0.5).update(learner, batch_of([0, 1]), Outputs(random(2, 3, seed=1)), START)
    assert list(terms) == ["ce", "kd"]
    assert len(descents) == 1
    assert descents[0] is terms


@few
@given(pairs_within(8))
def test_logit_regression_averages_squares_over_batch_and_classes(logits):
    student, teacher = torch.from_numpy(logits)
    squares = [(ours - theirs) ** 2 for ours, theirs in zip(logits[0].flat, logits[1].flat, strict=True)]
    method = MSELogits(**WEIGHTS, weight=3.0)
    terms = method.losses(batch_of([0] * len(student)), Outputs(student), Outputs(teacher), START)
    assert list(terms) == ["mse_logits"]
    assert float(terms["mse_logits"]) == pytest.approx(3.0 * sum(squares) / len(squares), rel=1e-9)


def test_logit_regression_notices_a_shifted_row():
    logits = random(2, 3)
    method = MSELogits(**WEIGHTS, weight=1.0)
    assert float(own_term(method, Outputs(logits + 2.0), Outputs(logits))) == pytest.approx(4.0)


@few
@given(halves(3, 4), halves(3, 4))
def test_cosine_equals_a_naive_sum_within_its_range(ours, theirs):
    similarities = [
        sum(a * b for a, b in zip(u, v, strict=True)) / (math.hypot(*u) * math.hypot(*v))
        for u, v in zip(ours.tolist(), theirs.tolist(), strict=True)
    ]
    distance = float(cosine(ours, theirs))
    assert distance == pytest.approx(1 - sum(similarities) / 3, abs=1e-9)
    assert -1e-9 <= distance <= 2 + 1e-9


@few
@given(halves(2, 6), halves(2, 6), st.floats(0.01, 100), st.floats(0.01, 100))
def test_cosine_ignores_positive_scales(ours, theirs, up, down):
    assert float(cosine(up * ours, down * theirs)) == pytest.approx(float(cosine(ours, theirs)), abs=1e-9)


@pytest.mark.parametrize(("scale", "distance"), [(5.0, 0.0), (-5.0, 2.0)])
def test_cosine_reaches_both_ends_of_its_range(scale, distance):
    ours = random(3, 4)
    assert float(cosine(ours, scale * ours)) == pytest.approx(distance, abs=1e-9)


def test_orthogonal_vectors_have_cosine_distance_one():
    ours, theirs = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 3.0]])
    assert float(cosine(ours, theirs)) == pytest.approx(1.0)


def test_cosine_averages_neighbouring_teacher_values_as_the_tutorial_does():
    ours, theirs = random(2, 16, 8, 8).requires_grad_(), random(2, 32, 8, 8, seed=1)
    neighbours = theirs.reshape(2, 1024, 2).mean(2)
    assert torch.allclose(neighbours, F.avg_pool1d(theirs.flatten(1), 2))
    expected = F.cosine_embedding_loss(ours.flatten(1), neighbours, torch.ones(2))
    distance = cosine(ours, theirs)
    torch.testing.assert_close(distance, expected, rtol=1e-9, atol=1e-10)
    (got,), (wanted,) = torch.autograd.grad(distance, ours), torch.autograd.grad(expected, ours)
    torch.testing.assert_close(got, wanted, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize(("ours", "theirs"), [(1024, 1536), (16, 8), (3, 7)])
def test_cosine_refuses_a_teacher_vector_whose_length_is_no_multiple(ours, theirs):
    with pytest.raises(ValueError, match=rf"{theirs} \(teacher\) is no multiple of {ours} \(student\)"):
        feature_method(Cosine, random(1, ours), random(1, theirs))


@torch.no_grad()
@pytest.mark.parametrize("method", [Cosine, Hint])
def test_feature_terms_are_summed_over_pairs_and_weighted(method):
    ours, theirs = [random(2, 4, seed=seed) for seed in (1, 2)], [random(2, 4, seed=seed) for seed in (3, 4)]
    made = method(**WEIGHTS | {"weight": 3.0, "ce_weight": 0.0, "student_layers": ["a", "b"], "teacher_layers": ["c", "d"]})
    made.layers(nn.Identity(), nn.Identity())
    student = Outputs(random(2, 3), dict(zip("ab", ours, strict=True)))
    teacher = Outputs(random(2, 3), dict(zip("cd", theirs, strict=True)))
    made.setup(probe(student, teacher))
    made.double()
    if method is Hint:
        parts = [F.mse_loss(made.regressors[n](ours[n]), theirs[n]) for n in (0, 1)]
    else:
        parts = [cosine(ours[n], theirs[n]) for n in (0, 1)]
    terms = made.losses(batch_of([0, 0]), student, teacher, START)
    assert list(terms) == [made.label]
    assert float(terms[made.label]) == pytest.approx(3.0 * float(parts[0] + parts[1]))


def test_the_terms_of_a_feature_method_add_up_to_the_whole_objective():
    made, _, _ = feature_method(Cosine, random(2, 4), random(2, 4, seed=1), alpha=0.3, weight=2.0, temperature=3.0)
    student = Outputs(random(2, 3, seed=2), {"ours": random(2, 4)})
    teacher = Outputs(random(2, 3, seed=3), {"theirs": random(2, 4, seed=1)})
    batch = batch_of([0, 2])
    terms = made.losses(batch, student, teacher, START)
    hard = float(F.cross_entropy(student.logits, batch.label))
    soft = soft_target_loss_by_hand(student.logits, teacher.logits, 3.0)
    whole = 0.3 * hard + 0.7 * soft + 2.0 * float(cosine(student.features["ours"], teacher.features["theirs"]))
    assert list(terms) == ["ce", "kd", "cosine"]
    assert float(sum(terms.values())) == pytest.approx(whole)


@pytest.mark.parametrize("method", [Cosine, Hint])
def test_feature_methods_read_the_last_map_where_no_layers_are_named(method):
    shape = {"num_classes": 10, "in_channels": 3, "image_size": 32, "dropout": 0.1}
    made = method(**WEIGHTS, weight=1.0, student_layers=None, teacher_layers=None)
    assert made.layers(LightNN(**shape), DeepNN(**shape)) == (["features"], ["features"])


def test_a_landmark_that_a_network_does_not_declare_is_refused():
    class Deep(Cosine):
        landmarks = ("preactivations",)

    shape = {"num_classes": 10, "in_channels": 3, "image_size": 32, "dropout": 0.1}
    made = Deep(**WEIGHTS, weight=1.0, student_layers=None, teacher_layers=["features"])
    with pytest.raises(UnknownLayer, match="^LightNN declares no preactivations, so its layers must be named$"):
        made.layers(LightNN(**shape), DeepNN(**shape))


def test_the_pooled_vector_is_a_landmark():
    class Pooled(Cosine):
        landmarks = ("pooled",)

    shape = {"num_classes": 10, "in_channels": 3, "image_size": 32, "dropout": 0.1}
    made = Pooled(**WEIGHTS, weight=1.0, student_layers=None, teacher_layers=None)
    nets = LightNN(**shape), DeepNN(**shape)
    layers = made.layers(*nets)
    assert layers == (["classifier.3.input"], ["classifier.3.input"])
    outputs = [Capture(net, names, torch.zeros(2, 3, 32, 32)).probe for net, names in zip(nets, layers, strict=True)]
    made.setup(probe(*outputs))
    assert [features.shape for features in made.pairs(*outputs)[0]] == [(2, 256), (2, 512)]


def test_lists_of_layers_of_unequal_length_are_refused():
    made = Cosine(**WEIGHTS, weight=1.0, student_layers=["a", "b"], teacher_layers=["c"])
    with pytest.raises(ValueError, match="pairs, but name 2 and 1 layers"):
        made.layers(nn.Identity(), nn.Identity())


def convolution_by_hand(image, weight, bias):
    padded = np.pad(image, ((0, 0), (0, 0), (1, 1), (1, 1)))
    height, width = image.shape[2:]
    result = np.zeros((len(image), len(weight), height, width)) + bias[:, None, None]
    for row in range(3):
        for column in range(3):
            window = padded[:, :, row : row + height, column : column + width]
            result += np.einsum("nihw,oi->nohw", window, weight[:, :, row, column])
    return result


def test_hint_is_the_mean_squared_error_of_a_convolution_by_hand():
    ours, theirs = random(2, 2, 4, 5), random(2, 3, 4, 5, seed=1)
    method, student, teacher = feature_method(Hint, ours, theirs)
    weight, bias = (parameter.detach().numpy() for parameter in method.parameters())
    expected = ((convolution_by_hand(ours.numpy(), weight, bias) - theirs.numpy()) ** 2).mean()
    assert float(own_term(method, student, teacher).detach()) == pytest.approx(expected, rel=1e-9)


def test_hint_trains_its_regressor_and_the_student():
    ours = random(2, 2, 4, 4).requires_grad_()
    method, student, teacher = feature_method(Hint, ours, random(2, 3, 4, 4, seed=1))
    own_term(method, student, teacher).backward()
    assert all(tensor.grad.abs().sum() > 0 for tensor in (ours, *method.parameters()))


def test_hint_regresses_maps_by_a_3x3_convolution():
    method, _, _ = feature_method(Hint, random(1, 16, 8, 8), random(1, 32, 8, 8))
    (layer,) = method.regressors
    assert isinstance(layer, nn.Conv2d)
    assert tuple(layer.weight.shape) == (32, 16, 3, 3)
    assert layer(random(1, 16, 8, 8)).shape == (1, 32, 8, 8)


def test_hint_regresses_vectors_by_a_linear_layer():
    method, _, _ = feature_method(Hint, random(1, 5), random(1, 7))
    (layer,) = method.regressors
    assert isinstance(layer, nn.Linear)
    assert tuple(layer.weight.shape) == (7, 5)


def test_hint_between_the_tutorial_nets_adds_4640_parameters():
    shape = {"num_classes": 10, "in_channels": 3, "image_size": 32, "dropout": 0.1}
    image = torch.zeros(1, 3, 32, 32)
    method = Hint(**WEIGHTS, weight=1.0, student_layers=None, teacher_layers=None)
    nets = LightNN(**shape), DeepNN(**shape)
    names = method.layers(*nets)
    method.setup(probe(*(Capture(net, layers, image).probe for net, layers in zip(nets, names, strict=True))))
    assert sum(parameter.numel() for parameter in method.parameters()) == 4640


@pytest.mark.parametrize(
    ("ours", "theirs", "sizes"),
    [
        ((16, 8, 8), (32, 4, 4), r"16×8×8 \(student\) with 32×4×4 \(teacher\)"),
        ((16, 8, 8), (32, 8, 4), r"16×8×8 \(student\) with 32×8×4 \(teacher\)"),
        ((16, 8, 8), (64,), r"16×8×8 \(student\) with 64 \(teacher\)"),
    ],
)
def test_hint_refuses_features_of_different_sizes(ours, theirs, sizes):
    with pytest.raises(ValueError, match=sizes):
        feature_method(Hint, random(1, *ours), random(1, *theirs))
