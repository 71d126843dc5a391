"""Meta Pseudo Labels: a step by hand with two optimizers, the feedback's sign and size, and when there is none."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from each_method import PAIR
from hypothesis import given, settings
from hypothesis import strategies as st
from loops import prepared
from loss_bench import random
from pupils import HALF_WAY, Pupil, few_labels, made, schedule
from torch import nn

from kdexp.data.batch import Batch, Unlabelled
from kdexp.distillation.base import Progress
from kdexp.distillation.mpl import MPL
from kdexp.errors import InvalidArguments
from kdexp.validation.validator import validate

OWN = {
    "teacher": {"_target_": "kdexp.models.mlp.MLP", "hidden": [5]},
    "uda_weight": 3.0,
    "uda_ramp": 1.0,
    "threshold": 0.4,
    "temperature": 0.7,
    "label_smoothing": 0.15,
    "pseudo_labels": "argmax",
    "student_labels": "strong",
    "feedback_labels": "strong",
    "feedback": "old_minus_new",
    "baseline_decay": None,
    "student_wait": 0.0,
    "finetune_epochs": 0,
    "finetune_lr": 0.01,
}


def network(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).double()


class Both(Pupil):
    """A pupil in float64 whose one optimizer steps its network and the method's teacher."""

    def __init__(self, method, rate=0.1):
        super().__init__(network(0))
        self.method, self.given = method, []
        self.optimizer = torch.optim.SGD([*self.network.parameters(), *method.teacher.parameters()], rate, momentum=0.9)

    def ask(self, teacher, image):
        return teacher(image)

    def forward_all(self, images, *, joint, interleaved=False):
        assert joint
        return [type(self.forward(images[0]))(part) for part in self.network(torch.cat(images)).split([len(i) for i in images])]

    def forward_aside(self, image):
        return super().forward_aside(image)

    def descend(self, terms):
        self.given.append({name: value.detach() for name, value in terms.items()})
        self.optimizer.zero_grad()
        sum(terms.values()).backward()
        self.optimizer.step()


def mpl(**changed):
    method = made(MPL, **OWN | changed)
    method.teacher = network(1)
    if method.baseline_decay is not None:
        method.register_buffer("average_feedback", torch.zeros((), dtype=torch.float64))
    return method


def step(method, pupil, batch, progress=HALF_WAY):
    schedule(method, progress)
    return method.update(pupil, batch, None, progress)


def smooth(logits, targets):
    """Cross-entropy with smoothed labels, by their definition."""
    hard = F.one_hot(targets, logits.shape[1]).double() * 0.85 + 0.15 / logits.shape[1]
    return -(hard * logits.log_softmax(1)).sum(1).mean()


def by_hand(student, teacher, optimizers, batch, labels_of=lambda z_weak, z_strong: (z_strong.argmax(1), z_strong.argmax(1))):
    """A step with an optimizer for each network; returns the terms of the loss and h."""
    weak, strong = batch.unlabelled.views["weak"], batch.unlabelled.views["strong"]
    z, zw, zs = teacher(torch.cat([batch.image, weak, strong])).split([len(batch.label), len(weak), len(strong)])
    for_student, for_feedback = labels_of(zw.detach(), zs.detach())
    loss = {"student": smooth(student(torch.cat([batch.image, strong]))[len(batch.label) :], for_student)}
    old = F.cross_entropy(student(batch.image), batch.label).detach()
    optimizers[0].zero_grad()
    loss["student"].backward()
    optimizers[0].step()
    h = old - F.cross_entropy(student(batch.image), batch.label).detach()
    q = (zw.detach() / 0.7).exp()
    q = q / q.sum(1, keepdim=True)
    uda = sum(-(target * row.log_softmax(0)).sum() for target, row in zip(q, zs, strict=True) if target.max() >= 0.4) / len(q)
    loss |= {"ce": smooth(z, batch.label), "uda": 3 * 0.5 * uda}
    loss["feedback"] = h * -zs.log_softmax(1)[torch.arange(len(zs)), for_feedback].mean()
    optimizers[1].zero_grad()
    (loss["ce"] + loss["uda"] + loss["feedback"]).backward()
    optimizers[1].step()
    return loss, h


VARIANTS = {
    "paper": ({}, lambda zw, zs: (zs.argmax(1), zs.argmax(1))),
    "student labels from the weak view": ({"student_labels": "weak"}, lambda zw, zs: (zw.argmax(1), zs.argmax(1))),
    "feedback labels from it": ({"feedback_labels": "weak"}, lambda zw, zs: (zs.argmax(1), zw.argmax(1))),
}


@pytest.mark.parametrize(("knobs", "labels_of"), VARIANTS.values(), ids=VARIANTS)
def test_three_steps_are_those_by_hand_with_two_optimizers(knobs, labels_of):
    method = mpl(**knobs)
    pupil = Both(method)
    student, teacher = deepcopy(pupil.network), deepcopy(method.teacher)
    optimizers = [torch.optim.SGD(net.parameters(), 0.1, momentum=0.9) for net in (student, teacher)]
    for number in range(3):
        batch = few_labels("weak", "strong", seed=10 * number)
        found = step(method, pupil, batch)
        expected, h = by_hand(student, teacher, optimizers, batch, labels_of)
        assert list(found) == ["student", "ce", "uda", "feedback"]
        for name, value in expected.items():
            assert float(found[name].detach()) == pytest.approx(float(value.detach()), abs=1e-9), name
        assert float(pupil.notes["feedback_factor"]) == pytest.approx(float(h), abs=1e-9) and abs(h) > 1e-6
    for ours, theirs in ((pupil.network, student), (method.teacher, teacher)):
        assert all(torch.allclose(a, b, atol=1e-9) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_feedback_is_the_rate_times_the_gradients_product_for_small_steps(seed):
    """h = η ∇ℓ(labelled) · ∇ℓ(student) + O(η²), of a linear student."""
    method, rate = mpl(label_smoothing=0.0), 1e-5
    pupil = Both(method, rate)
    torch.manual_seed(seed)
    pupil.network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).double()
    pupil.optimizer = torch.optim.SGD([*pupil.network.parameters(), *method.teacher.parameters()], rate)
    batch = few_labels("weak", "strong", seed=seed)
    labels = method.teacher(torch.cat([batch.image, *batch.unlabelled.views.values()]))[-len(batch.unlabelled.index) :].argmax(
        1
    )
    losses = [
        F.cross_entropy(pupil.network(image), label)
        for image, label in ((batch.image, batch.label), (batch.unlabelled.views["strong"], labels))
    ]
    ours, theirs = (torch.autograd.grad(loss, list(pupil.network.parameters())) for loss in losses)
    product = sum((a * b).sum() for a, b in zip(ours, theirs, strict=True))
    step(method, pupil, batch)
    assert float(pupil.notes["feedback_factor"]) == pytest.approx(rate * float(product), rel=1e-2, abs=1e-9)


def test_hard_labels_have_the_gradient_h_times_p_minus_the_label():
    logits = random(6, 3).requires_grad_()
    label = mpl().labels_of(logits)
    F.cross_entropy(logits, label).mul(0.3).backward()
    expected = 0.3 * (logits.detach().softmax(1) - F.one_hot(label, 3)) / 6
    assert torch.allclose(logits.grad, expected, atol=1e-12)


def test_soft_labels_have_no_feedback():
    """The gradient of the feedback with respect to the teacher's logits is p − p."""
    method = mpl(pseudo_labels="soft")
    logits = random(6, 3).requires_grad_()
    F.cross_entropy(logits, method.labels_of(logits)).backward()
    assert logits.grad.abs().max() < 1e-15
    trained = []
    for weight in (0.0, 5.0):
        method = mpl(pseudo_labels="soft", weight=weight)
        pupil = Both(method)
        for number in range(3):
            step(method, pupil, few_labels("weak", "strong", seed=number))
        trained.append(method.teacher)
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(*(net.parameters() for net in trained), strict=True))


def test_sampled_labels_have_the_teachers_distribution():
    torch.manual_seed(0)
    logits = torch.tensor([[0.0, 1.0, 2.0]]).expand(30_000, 3)
    shares = mpl(pseudo_labels="sampled").labels_of(logits).bincount() / len(logits)
    torch.testing.assert_close(shares, logits[0].softmax(0), atol=0.01, rtol=0)


def test_the_sign_and_the_baseline_of_the_feedback():
    factors = {}
    for name, knobs in {"plain": {}, "reversed": {"feedback": "new_minus_old"}, "centred": {"baseline_decay": 0.75}}.items():
        method = mpl(**knobs)
        pupil = Both(method)
        step(method, pupil, few_labels("weak", "strong"))
        factors[name] = float(pupil.notes["feedback_factor"])
    assert factors["reversed"] == -factors["plain"] != 0
    assert factors["centred"] == pytest.approx(0.75 * factors["plain"], abs=1e-12), "the average takes a quarter of it in first"


@pytest.fixture
def learner(make_experiment):
    """A learner whose nets have batch norms."""

    def make(*words):
        words = (*PAIR, "distillation=mpl", "averaging=ema", *words)
        data = ("dataset.student_fraction=1", "dataset.limit=90", "dataset.labels=30", "strong@dataset.strong_view=geometric")
        (found,), _ = prepared(make_experiment(*words, *data), "distilled")
        found.train()
        return found

    return make


def images_of(seed):
    generator = torch.Generator().manual_seed(seed)
    image, weak, strong = (torch.rand(size, 1, 8, 8, generator=generator) for size in (6, 12, 12))
    label = torch.randint(10, (6,), generator=generator)
    return Batch(image, label, label, unlabelled=Unlabelled(torch.arange(12), {"weak": weak, "strong": strong}))


def factors_of(learner):
    at = len(learner.log.columns) + learner.log.notes.index("feedback_factor")
    return [float(numbers[at]) for numbers in learner.log.trace]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_feedback_is_exactly_zero_while_the_student_waits(learner, optimizer):
    """With weight decay, momentum and batch norm; the teacher learns, and the student's running statistics change."""
    found = learner(
        f"optimizer={optimizer}", "optimizer.weight_decay=0.01", "distillation.student_wait=0.5", "optimizer.lr=0.05"
    )
    before = {name: value.clone() for name, value in found.state_dict().items()} | {
        f"raw.{name}": value.clone() for name, value in found.model.named_parameters()
    }
    for number in range(4):
        found.step(images_of(number), None, Progress(number + 0.5, 4, number))
        assert not found.failure, found.failure
        moved = [not torch.equal(value, before[f"raw.{name}"]) for name, value in found.model.named_parameters()]
        assert all(moved) if number >= 2 else not any(moved)
    first, second, third, fourth = factors_of(found)
    assert first == second == 0 and third != 0 and fourth != 0
    assert any(
        not torch.equal(value, before[name]) for name, value in found.state_dict().items() if name.startswith("method.t")
    )


def test_feedback_is_exactly_zero_with_learning_rate_zero(learner):
    found = learner("optimizer=sgd", "distillation.student_wait=0")
    found._base_rates = [0.0] * len(found._base_rates)
    for number in range(3):
        found.step(images_of(number), None, Progress(0.5, 1, number))
    assert not found.failure and factors_of(found) == [0, 0, 0]


def test_both_networks_are_stored_and_only_the_student_is_deployed(learner):
    found = learner()
    names = set(found.state_dict())
    assert {name for name in names if name.startswith("model.")} == {f"model.{name}" for name in found.model.state_dict()}
    assert {f"method.teacher.{name}" for name in found.model.state_dict()} < names
    assert found.deployed is found.model and found.evaluated is found.average.network
    ours, theirs = (net.state_dict()["classifier.weight"] for net in (found.model, found.distiller.teacher))
    assert not torch.equal(ours, theirs)


def test_the_table_names_its_terms():
    assert mpl().describe() == "CE + 3 UDA + feedback, T=0.7"
    assert mpl(finetune_epochs=2).describe() == "CE + 3 UDA + feedback, T=0.7, then CE for 2 epochs"


def test_the_last_epochs_have_a_learning_rate_of_their_own():
    method = mpl(finetune_epochs=2, student_wait=0.5)
    rates = [method.student_rate(Progress(epoch, 10, 0), 0.3) for epoch in (4.9, 5, 7.99, 8.01, 9.9)]
    assert rates == [0.0, 0.3, 0.3, 0.01, 0.01] and [method.reads_unlabelled(Progress(e, 10, 0)) for e in (7.9, 8.1)] == [1, 0]


def test_fine_tuning_learns_the_labels_alone():
    """With a teacher that would fail if it were asked."""
    method = mpl(finetune_epochs=2)
    pupil = Both(method)
    del method.teacher
    batch = few_labels("weak", "strong")
    expected = F.cross_entropy(pupil.network(batch.image), batch.label).item()
    found = step(method, pupil, replace(batch, unlabelled=None), Progress(9.0, 10, 90))
    assert {name: value.item() for name, value in found.items()} == {
        "student": 0,
        "ce": 0,
        "uda": 0,
        "feedback": 0,
        "finetuning": expected,
    }
    assert pupil.given[0].keys() == {"finetuning"} and len(pupil.given) == 1


def test_fine_tuning_that_leaves_no_epochs_is_refused(make_experiment):
    words = ("distillation=mpl", "dataset.labels=40", "dataset.student_fraction=1", "strong@dataset.strong_view=geometric")
    config = make_experiment(*words, "averaging=ema", "distillation.finetune_epochs=3", "epochs=3").config
    (problem,) = validate(config)
    assert problem.name == "distillation.finetune_epochs" and problem.sentence.startswith("=3: are the last of 3 epochs")
    assert validate({**config, "epochs": 4}) == []


def test_a_teacher_that_is_no_network_is_refused():
    with pytest.raises(InvalidArguments, match=r"names no _target_; the teacher is a network: 'distillation.teacher="):
        mpl(teacher={"hidden": [3]})


def test_problems_of_the_teachers_network_are_named(make_experiment):
    config = make_experiment("distillation=mpl", "dataset.labels=40", "dataset.student_fraction=1").config
    config["distillation"]["teacher"] = {"_target_": "kdexp.models.mlp.MLP", "hidden": [0]}
    assert any(problem.name == "distillation.teacher.hidden" for problem in validate(config)), validate(config)
