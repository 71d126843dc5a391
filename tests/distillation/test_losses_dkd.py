import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from loss_bench import START, WEIGHTS, batch_of, few, pairs_within, random, temperatures

from kdexp.distillation.base import Progress, soft_target_loss
from kdexp.distillation.dkd import DKD, decoupled, other_classes
from kdexp.network.capture import Outputs

PARTS = {"weight": 1.0, "target_weight": 1.0, "nontarget_weight": 8.0, "warmup_epochs": 0}


def dkd(**changed):
    return DKD(**WEIGHTS | PARTS | changed)


def terms(method, student, teacher, labels, progress=START):
    return method.transfer(batch_of(labels), Outputs(student), Outputs(teacher), progress)


def labels_for(logits, seed=0):
    return torch.randint(logits.shape[1], (len(logits),), generator=torch.Generator().manual_seed(seed))


def divergences_by_hand(student, teacher, labels, temperature):
    """KL divergence of probabilities that are far from 0 and 1, by hand."""
    target, nontarget = [], []
    for answer, wanted, label in zip(student.tolist(), teacher.tolist(), labels, strict=True):
        q, p = ([math.exp(value / temperature) for value in row] for row in (answer, wanted))
        q, p = ([value / sum(row) for value in row] for row in (q, p))
        two = [(p[label], q[label]), (1 - p[label], 1 - q[label])]
        target.append(sum(a * math.log(a / b) for a, b in two))
        rest = [(p[k] / (1 - p[label]), q[k] / (1 - q[label])) for k in range(len(p)) if k != label]
        nontarget.append(sum(a * math.log(a / b) for a, b in rest))
    return target, nontarget


@few
@given(pairs_within(4), st.floats(1, 20), st.integers(0, 9))
def test_both_terms_equal_sums_written_by_hand(logits, temperature, seed):
    student, teacher = torch.from_numpy(logits)
    labels = labels_for(student, seed).tolist()
    method = dkd(temperature=temperature, target_weight=0.5, nontarget_weight=3.0)
    found = terms(method, student, teacher, labels)
    target, nontarget = divergences_by_hand(student, teacher, labels, temperature)
    scale = temperature**2 / len(student)
    assert list(found) == ["target", "nontarget"]
    assert float(found["target"]) == pytest.approx(0.5 * scale * sum(target), rel=1e-7, abs=1e-9)
    assert float(found["nontarget"]) == pytest.approx(3.0 * scale * sum(nontarget), rel=1e-7, abs=1e-9)


@few
@given(pairs_within(20), temperatures, st.integers(0, 9))
def test_the_two_divergences_make_up_kl_for_every_image(logits, temperature, seed):
    student, teacher = torch.from_numpy(logits)
    labels = labels_for(student, seed)
    target, nontarget = decoupled(student, teacher, labels, temperature)
    others = 1 - (teacher / temperature).softmax(1).gather(1, labels.unsqueeze(1)).squeeze(1)
    for n in range(len(student)):
        whole = soft_target_loss(student[n : n + 1], teacher[n : n + 1], temperature) / temperature**2
        assert float(target[n] + others[n] * nontarget[n]) == pytest.approx(float(whole), rel=1e-7, abs=1e-9)


def test_the_divergences_have_the_values_worked_out_on_paper():
    student, teacher = torch.tensor([[0.0, 0.0, math.log(3.0)]]), torch.zeros(1, 3)
    target, nontarget = decoupled(student.double(), teacher.double(), torch.tensor([0]), 1.0)
    assert float(target) == pytest.approx(math.log(5 / 3) / 3 + 2 / 3 * math.log(5 / 6))  # (1/3, 2/3) against (1/5, 4/5)
    assert float(nontarget) == pytest.approx(math.log(4 / 3) / 2)  # (1/2, 1/2) against (1/4, 3/4)


@few
@given(pairs_within(8), temperatures, st.floats(-20, 20, width=32))
def test_neither_term_is_negative_and_both_ignore_constants_added_to_a_row(logits, temperature, shift):
    student, teacher = torch.from_numpy(logits)
    labels = labels_for(student).tolist()
    found = terms(dkd(temperature=temperature), student, teacher, labels)
    shifted = terms(dkd(temperature=temperature), student + shift, teacher - shift, labels)
    for name, term in found.items():
        assert float(term) >= -1e-9
        assert float(shifted[name]) == pytest.approx(float(term), abs=1e-6)


@few
@given(pairs_within(8), temperatures)
def test_a_student_with_the_teachers_logits_has_no_loss_and_no_gradient(logits, temperature):
    teacher = torch.from_numpy(logits[1])
    student = teacher.clone().requires_grad_()
    loss = sum(terms(dkd(temperature=temperature), student, teacher, labels_for(teacher).tolist()).values())
    loss.backward()
    assert abs(float(loss.detach())) < 1e-9 and student.grad.abs().max() < 1e-9


@few
@given(pairs_within(8), st.floats(-5, 5, width=32))
def test_the_nontarget_term_ignores_the_logit_of_the_labels_class(logits, change):
    student, teacher = torch.from_numpy(logits)
    labels = labels_for(student)
    changed = student.scatter_add(1, labels.unsqueeze(1), torch.full((len(labels), 1), change, dtype=student.dtype))
    before, after = (decoupled(answer, teacher, labels, 2.0)[1] for answer in (student, changed))
    torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-10)


def test_the_gradient_equals_finite_differences():
    student, teacher, labels = random(3, 5).requires_grad_(), random(3, 5, seed=1), [0, 4, 2]
    method = dkd(temperature=3.0)
    assert torch.autograd.gradcheck(lambda logits: tuple(terms(method, logits, teacher, labels).values()), student)


@pytest.mark.parametrize("sure", [1e2, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_networks_with_saturated_probabilities_give_finite_terms_and_gradients(sure, dtype):
    sure = float(torch.tensor(sure, dtype=dtype))
    student = torch.tensor([[sure, 0.0, 1.0], [0.0, -sure, sure]]).requires_grad_()
    teacher = torch.tensor([[0.0, sure, 1.0], [sure, 0.0, sure]])
    found = terms(dkd(temperature=1.0), student, teacher, [0, 2])
    sum(found.values()).backward()
    assert all(term.isfinite() for term in found.values()) and student.grad.isfinite().all()
    first, second = sure - math.log(1 + math.e), sure / 2 - math.log(2)  # the teacher is sure of another class, or torn
    assert float(found["target"].detach()) == pytest.approx((first + second) / 2, rel=1e-5)


def test_with_two_classes_the_nontarget_term_is_zero():
    student, teacher = random(4, 2).requires_grad_(), random(4, 2, seed=1)
    found = terms(dkd(), student, teacher, [0, 1, 1, 0])
    found["nontarget"].backward()
    assert float(found["nontarget"].detach()) == 0.0 and not student.grad.any()
    assert float(found["target"].detach()) == pytest.approx(float(soft_target_loss(student.detach(), teacher, 1.0)))


def test_other_classes_are_all_but_the_labels():
    assert other_classes(torch.tensor([0, 2, 3]), 4).tolist() == [[1, 2, 3], [0, 1, 3], [0, 1, 2]]


@pytest.mark.parametrize(("epoch", "share"), [(0.0, 1), (0.99, 1), (1.01, 2), (3.5, 4), (4.5, 5), (40.0, 5)])
def test_both_terms_warm_up_in_whole_epochs_counted_from_1(epoch, share):
    student, teacher = random(3, 4), random(3, 4, seed=1)
    progress = Progress(epoch=epoch, epochs=50, step=0)
    whole, warming = (terms(dkd(warmup_epochs=n), student, teacher, [0, 1, 2], progress) for n in (0, 5))
    for name, term in whole.items():
        assert float(warming[name]) == pytest.approx(share / 5 * float(term))


def test_the_whole_objective_adds_up_and_is_described():
    method = dkd(temperature=2.0, weight=3.0, ce_weight=0.5, kd_weight=0.25)
    student, teacher, batch = random(3, 4), random(3, 4, seed=1), batch_of([0, 3, 1])
    found = method.losses(batch, Outputs(student), Outputs(teacher), START)
    target, nontarget = divergences_by_hand(student, teacher, [0, 3, 1], 2.0)
    expected = 0.5 * float(F.cross_entropy(student, batch.label)) + 0.25 * float(soft_target_loss(student, teacher, 2.0))
    expected += 3.0 * 4 / 3 * (sum(target) + 8 * sum(nontarget))
    assert list(found) == ["ce", "kd", "target", "nontarget"]
    assert float(sum(found.values())) == pytest.approx(expected)
    assert method.describe() == "0.5 CE + 0.25 KD + 3 DKD, T=2"
    assert dkd(temperature=4.0).describe() == "CE + DKD, T=4"
    assert dkd(temperature=4.0, weight=0.0).describe() == "CE"
