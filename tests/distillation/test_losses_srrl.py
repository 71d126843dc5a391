"""SRRL against sums written by hand."""

import math

import pytest
import torch
from loss_bench import LAYERS, START, WEIGHTS, batch_of, probe, random
from torch import nn

from kdexp.distillation.srrl import SRRL
from kdexp.network.capture import Outputs


def classifier(width=5, classes=3):
    made = nn.Linear(width, classes).double().requires_grad_(False)
    made.weight.copy_(random(classes, width, seed=8))
    made.bias.copy_(random(classes, seed=9))
    return made


def srrl(ours, theirs, classify=None, **changed):
    """Returns the method, set up, and both outputs; the teacher's logits are those of its classifier."""
    classify = classify or classifier(theirs.shape[1])
    made = SRRL(**WEIGHTS | LAYERS | changed)
    made.layers(nn.Identity(), nn.Identity())
    both = Outputs(torch.zeros(len(ours), 3), {"ours": ours}), Outputs(classify(theirs), {"theirs": theirs})
    made.setup(probe(*both, classify=classify))
    return made.to(ours.dtype), *both


def terms_of(made, student, teacher):
    return made.transfer(batch_of([0] * len(student.logits)), student, teacher, START)


def connected_by_hand(weight, rows):
    """Computes ReLU(BN(W·x)) of rows of values, with their own statistics (biased variance)."""
    columns = [[sum(w * x for w, x in zip(ws, row, strict=True)) for row in rows] for ws in weight]
    normalised = []
    for column in columns:
        mean = sum(column) / len(column)
        spread = math.sqrt(sum((value - mean) ** 2 for value in column) / len(column) + 1e-5)
        normalised.append([max((value - mean) / spread, 0.0) for value in column])
    return [list(row) for row in zip(*normalised, strict=True)]


def mean_square(ours, theirs):
    squares = [(a - b) ** 2 for row, other in zip(ours, theirs, strict=True) for a, b in zip(row, other, strict=True)]
    return sum(squares) / len(squares)


def test_both_terms_equal_sums_written_by_hand():
    classify = classifier()
    made, student, teacher = srrl(random(4, 6), random(4, 5, seed=1), classify)
    connected = connected_by_hand(made.connect[0].weight.tolist(), student.features["ours"].tolist())
    logits = [
        [
            sum(w * x for w, x in zip(ws, row, strict=True)) + b
            for ws, b in zip(classify.weight.tolist(), classify.bias.tolist(), strict=True)
        ]
        for row in connected
    ]
    terms = terms_of(made, student, teacher)
    assert list(terms) == ["srrl_features", "srrl_logits"]
    assert float(terms["srrl_features"].detach()) == pytest.approx(mean_square(connected, teacher.features["theirs"].tolist()))
    assert float(terms["srrl_logits"].detach()) == pytest.approx(mean_square(logits, teacher.logits.tolist()))


def test_a_student_with_the_teachers_vectors_has_no_loss():
    theirs = random(6, 5).abs()
    made, student, teacher = srrl(theirs, theirs)
    made.connect[0].weight.data.copy_(torch.eye(5))
    made.connect[1].eval()  # mean 0 and variance 1: the identity but for its epsilon
    made.connect.train = lambda _mode: made.connect
    assert all(float(term.detach()) == pytest.approx(0.0, abs=1e-8) for term in terms_of(made, student, teacher).values())


def test_the_students_scale_does_not_matter():
    made, student, teacher = srrl(random(5, 6), random(5, 5, seed=1))
    scaled = Outputs(student.logits, {"ours": 1e3 * student.features["ours"]})
    for term, other in zip(terms_of(made, student, teacher).values(), terms_of(made, scaled, teacher).values(), strict=True):
        torch.testing.assert_close(term, other, rtol=1e-4, atol=0)


def test_gradients_pass_the_teachers_classifier_and_leave_it_as_it_is():
    classify, ours = classifier(), random(4, 6).requires_grad_()
    made, student, teacher = srrl(ours, random(4, 5, seed=1), classify)
    terms_of(made, student, teacher)["srrl_logits"].backward()
    assert all(tensor.grad.abs().sum() > 0 for tensor in (ours, *made.parameters()))
    assert classify.weight.grad is None and classify.bias.grad is None


def test_gradients_equal_finite_differences():
    made, _, teacher = srrl(random(4, 6), random(4, 5, seed=1))
    ours = random(4, 6, seed=2).requires_grad_()

    def whole(features):
        return sum(terms_of(made, Outputs(torch.zeros(4, 3), {"ours": features}), teacher).values())

    assert torch.autograd.gradcheck(whole, ours)


def test_the_teachers_classifier_is_not_part_of_the_method():
    made, _, _ = srrl(random(2, 64), random(2, 256))
    assert sum(parameter.numel() for parameter in made.parameters()) == 64 * 256 + 2 * 256
    assert {name.partition(".")[0] for name in made.state_dict()} == {"connect"}
    assert [type(layer) for layer in made.connect] == [nn.Linear, nn.BatchNorm1d, nn.ReLU] and made.connect[0].bias is None


def test_a_single_image_is_taken_as_in_evaluation():
    made, student, teacher = srrl(random(1, 6), random(1, 5))
    alone = terms_of(made, student, teacher)
    made.eval()
    assert all(torch.equal(alone[name], term) for name, term in terms_of(made, student, teacher).items())
    made.train()
    terms_of(made, Outputs(torch.zeros(4, 3), {"ours": random(4, 6)}), Outputs(random(4, 3), {"theirs": random(4, 5)}))
    assert made.connect[1].training and made.connect[1].num_batches_tracked == 1


def test_large_features_stay_finite():
    ours = (3e4 * random(4, 6)).to(torch.bfloat16).float().requires_grad_()
    made, student, teacher = srrl(ours, 3e4 * random(4, 5).float(), classifier().float())
    loss = sum(terms_of(made, student, teacher).values())
    loss.backward()
    assert loss.isfinite() and ours.grad.isfinite().all()


@pytest.mark.parametrize(
    ("ours", "theirs", "classify", "sentence"),
    [
        (
            (6,),
            (5,),
            None,
            "by the teacher's linear classifier, but it declares no landmarks; choose another teacher$",
        ),
        ((6,), (5,), nn.Conv2d(5, 3, 1), "by the teacher's linear classifier, but that is a Conv2d; choose another teacher$"),
        ((6, 2, 2), (5,), classifier(), r"not 6×2×2 \(student\) with 5 \(teacher\); choose other student_layers or teacher"),
        ((6,), (5, 2, 2), classifier(), r"not 6 \(student\) with 5×2×2 \(teacher\)"),
        (
            (6,),
            (7,),
            classifier(),
            r"with the 5 values that the teacher's classifier takes, not 6 \(student\) with 7 \(teacher\)",
        ),
    ],
)
def test_features_that_it_can_not_compare_are_refused(ours, theirs, classify, sentence):
    made = SRRL(**WEIGHTS | LAYERS)
    made.layers(nn.Identity(), nn.Identity())
    both = (
        Outputs(torch.zeros(2, 3), {"ours": torch.zeros(2, *ours)}),
        Outputs(torch.zeros(2, 3), {"theirs": torch.zeros(2, *theirs)}),
    )
    with pytest.raises(ValueError, match=sentence):
        made.setup(probe(*both, classify=classify))
