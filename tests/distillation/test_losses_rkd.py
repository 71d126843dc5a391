import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from loss_bench import START, batch_of, feature_method, few, random

from kdexp.distillation.rkd import RKD, angles, distances
from kdexp.errors import InvalidArguments

KNOBS = {"distance_weight": 25.0, "angle_weight": 50.0}


def points(*shape):
    return arrays("float64", shape, elements=st.floats(-5, 5, width=32)).map(torch.from_numpy)


def terms(ours, theirs, **changed):
    method, student, teacher = feature_method(RKD, ours, theirs, **KNOBS | changed)
    return method.transfer(batch_of([0] * len(ours)), student, teacher, START)


def huber(ours, theirs):
    gap = abs(ours - theirs)
    return gap**2 / 2 if gap < 1 else gap - 0.5


def distances_by_hand(vectors):
    count = len(vectors)
    found = [[math.dist(a, b) for b in vectors] for a in vectors]
    mean = sum(map(sum, found)) / (count * (count - 1))
    return [value / mean for row in found for value in row]


def angles_by_hand(vectors):
    found = []
    for a in vectors:
        for b in vectors:
            for c in vectors:
                to_b, to_c = ([q - p for p, q in zip(a, end, strict=True)] for end in (b, c))
                lengths = math.hypot(*to_b) * math.hypot(*to_c)
                found.append(sum(p * q for p, q in zip(to_b, to_c, strict=True)) / lengths if lengths else 0.0)
    return found


def test_both_terms_equal_loops_written_by_hand():
    ours, theirs = random(5, 3), random(5, 4, seed=1)
    found = terms(ours, theirs)
    for name, weight, by_hand in (("distance", 25, distances_by_hand), ("angle", 50, angles_by_hand)):
        gaps = [huber(a, b) for a, b in zip(by_hand(ours.tolist()), by_hand(theirs.tolist()), strict=True)]
        assert float(found[name]) == pytest.approx(weight * sum(gaps) / len(gaps), rel=1e-9)


def test_a_right_triangle_has_the_relations_worked_out_on_paper():
    corners = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
    torch.testing.assert_close(distances(corners)[0], torch.tensor([0.0, 0.75, 1.0]))
    assert float(angles(corners)[0, 1, 2]) == 0.0
    assert float(angles(corners)[1, 0, 2]) == pytest.approx(3 / 5)
    assert float(angles(corners)[2, 0, 1]) == pytest.approx(4 / 5)


@few
@given(st.integers(0, 99), st.floats(0.1, 10), st.floats(-3, 3))
def test_a_student_that_only_turns_scales_and_shifts_the_teachers_images_has_no_loss(seed, scale, shift):
    theirs = random(4, 3, seed=seed)
    turn, _ = torch.linalg.qr(random(3, 3, seed=seed + 1))
    found = terms(scale * theirs @ turn + shift, theirs)
    assert all(float(term) == pytest.approx(0.0, abs=1e-12) for term in found.values())


@few
@given(points(4, 3), points(4, 2), st.permutations(range(4)))
def test_the_order_of_the_images_does_not_matter(ours, theirs, order):
    found, permuted = terms(ours, theirs), terms(ours[order], theirs[order])
    for name, term in found.items():
        assert float(permuted[name]) == pytest.approx(float(term), rel=1e-6, abs=1e-9)


@few
@given(points(4, 3), points(4, 2))
def test_the_terms_stay_within_their_ranges(ours, theirs):
    found = terms(ours, theirs, distance_weight=1.0, angle_weight=1.0)
    assert 0 <= float(found["angle"]) <= 1.5  # the Huber loss of cosines 2 apart
    assert 0 <= float(found["distance"]) <= 2  # as the mean of the distances is 1 in both


def test_the_gradient_equals_finite_differences():
    theirs = random(4, 3, seed=1)
    assert torch.autograd.gradcheck(lambda ours: tuple(terms(ours, theirs).values()), random(4, 2).requires_grad_())


def test_the_students_own_mean_distance_is_differentiated():
    ours = random(4, 3).requires_grad_()
    terms(ours, random(4, 3, seed=1), angle_weight=0.0)["distance"].backward()
    assert abs(float((ours.grad * ours.detach()).sum())) < 1e-9  # scaling all images changes nothing


@pytest.mark.parametrize("ours", [torch.zeros(3, 4), torch.tensor([[1.0, 2.0], [1.0, 2.0], [0.0, 1.0]]), torch.ones(1, 4)])
def test_coincident_and_single_images_give_finite_terms_and_gradients(ours):
    ours = ours.clone().requires_grad_()
    found = terms(ours, random(len(ours), 4, seed=1).float())
    sum(found.values()).backward()
    assert all(term.isfinite() for term in found.values())
    assert ours.grad.isfinite().all() and ours.grad.abs().max() < 1e3
    if len(ours) == 1:
        assert all(float(term.detach()) == 0.0 for term in found.values())


def test_large_representations_rounded_to_bf16_do_not_overflow():
    ours, theirs = (1e4 * random(4, 8, seed=seed).bfloat16().float() for seed in (1, 2))
    assert all(term.isfinite() and float(term) < 100 for term in terms(ours, theirs).values())


@pytest.mark.parametrize(("off", "left"), [("distance_weight", ["angle"]), ("angle_weight", ["distance"])])
def test_a_relation_without_weight_is_not_computed(off, left):
    assert list(terms(random(3, 2), random(3, 2, seed=1), **{off: 0.0})) == left


def test_a_method_without_any_relation_is_refused():
    with pytest.raises(InvalidArguments, match=r"^angle_weight=0\.0: nothing is compared if distance_weight=0 too$"):
        terms(random(3, 2), random(3, 2), distance_weight=0.0, angle_weight=0.0)


def test_it_reads_the_pooled_vectors():
    assert RKD.landmarks == ("pooled",)
    made, _, _ = feature_method(RKD, random(2, 3), random(2, 3), **KNOBS, weight=2.0)
    assert made.describe() == "CE + 2 RKD"
