import math
import os
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import pytest
import torch
from experiments import compose_command
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from kdexp.configuration.nodes import build
from kdexp.device.precision import WORKSPACE, Precision
from kdexp.device.random import RandomStream
from kdexp.distillation.none import NoDistillation
from kdexp.errors import InvalidArguments
from kdexp.network.capture import Capture
from kdexp.training.learner import Learner
from kdexp.training.optimization import SGD, Adam, AdamW, Constant, Cosine, MultiStep, OptimizerRecipe, PartOfCosine

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SHARED = {"lr": 0.1, "weight_decay": 0.0, "decay_biases_and_norms": True, "clip_norm": None}
ADAM = SHARED | {"betas": [0.9, 0.999], "eps": 1e-8}
SGD_KNOBS = SHARED | {"momentum": 0.0, "nesterov": False}

singles = partial(st.floats, width=32, allow_subnormal=False)
few = settings(max_examples=25, deadline=None)


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))


def smooth_net():
    # Without a norm: behind one, gradients of biases are rounding noise, which Adam scales up to whole steps.
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def train(model, optimizer, steps=6):
    """A few steps on fixed batches; the trained parameters."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        image, target = (torch.randn(8, width, generator=generator) for width in (4, 3))
        optimizer.zero_grad()
        (model(image) - target).square().mean().backward()
        optimizer.step()
    return [parameter.detach() for parameter in model.parameters()]


def after_a_step_without_gradient(recipe, value=2.0):
    parameter = nn.Linear(1, 1, bias=False)
    nn.init.constant_(parameter.weight, value)
    parameter.weight.grad = torch.zeros_like(parameter.weight)
    recipe.build([parameter]).step()
    return parameter.weight.item()


@pytest.mark.parametrize(
    ("recipe", "plain"),
    [
        (
            SGD(**SGD_KNOBS | {"momentum": 0.9, "weight_decay": 0.01}),
            lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.01),
        ),
        (
            SGD(**SGD_KNOBS | {"momentum": 0.8, "nesterov": True}),
            lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.8, nesterov=True),
        ),
        (
            Adam(**ADAM | {"betas": [0.8, 0.95], "weight_decay": 0.05}),
            lambda parameters: torch.optim.Adam(parameters, lr=0.1, betas=(0.8, 0.95), weight_decay=0.05),
        ),
        (
            Adam(**ADAM | {"eps": 0.1}),
            lambda parameters: torch.optim.Adam(parameters, lr=0.1, eps=0.1),
        ),
        (
            AdamW(**ADAM | {"eps": 0.1}),
            lambda parameters: torch.optim.AdamW(parameters, lr=0.1, eps=0.1, weight_decay=0.0),
        ),
        (
            AdamW(**ADAM | {"betas": [0.8, 0.95], "weight_decay": 0.05}),
            lambda parameters: torch.optim.AdamW(parameters, lr=0.1, betas=(0.8, 0.95), weight_decay=0.05),
        ),
    ],
)
def test_a_built_optimizer_equals_torchs_own(recipe, plain):
    ours, theirs = smooth_net(), smooth_net()
    trained = train(ours, recipe.build([ours]))
    expected = train(theirs, plain(theirs.parameters()))
    assert all(torch.allclose(mine, yours, rtol=0, atol=1e-6) for mine, yours in zip(trained, expected, strict=True))
    assert any(not torch.equal(mine, start) for mine, start in zip(trained, smooth_net().parameters(), strict=True))


def test_weight_decay_is_part_of_the_gradient_in_adam_and_decoupled_in_adamw():
    decay = {"lr": 0.1, "weight_decay": 0.5}
    assert after_a_step_without_gradient(AdamW(**ADAM | decay)) == pytest.approx(2.0 * (1 - 0.1 * 0.5))
    # A first Adam step is lr times the sign of the gradient, here of the decay term, whatever its size.
    assert after_a_step_without_gradient(Adam(**ADAM | decay)) == pytest.approx(2.0 - 0.1, abs=1e-5)
    assert after_a_step_without_gradient(SGD(**SGD_KNOBS | decay)) == pytest.approx(2.0 - 0.1 * 0.5 * 2.0)


@pytest.mark.parametrize("recipe", [SGD(**SGD_KNOBS), Adam(**ADAM), AdamW(**ADAM)])
def test_without_weight_decay_a_zero_gradient_changes_nothing(recipe):
    assert after_a_step_without_gradient(recipe) == 2.0


@pytest.mark.parametrize(("family", "knobs"), [(SGD, SGD_KNOBS), (Adam, ADAM), (AdamW, ADAM)])
def test_biases_and_norms_can_be_exempt_from_weight_decay(family, knobs):
    model = net()
    optimizer = family(**knobs | {"weight_decay": 0.3, "decay_biases_and_norms": False}).build([model])
    decays = {id(parameter): group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]}
    assert {name: decays[id(parameter)] for name, parameter in model.named_parameters()} == {
        "0.weight": 0.3,
        "0.bias": 0.0,
        "1.weight": 0.0,
        "1.bias": 0.0,
        "3.weight": 0.3,
        "3.bias": 0.0,
    }


def test_by_default_all_parameters_decay_in_one_group():
    model = net()
    (group,) = SGD(**SGD_KNOBS | {"weight_decay": 0.3}).build([model]).param_groups
    assert group["weight_decay"] == 0.3
    assert [id(parameter) for parameter in group["params"]] == [id(parameter) for parameter in model.parameters()]


def test_an_optimizer_takes_all_modules_without_their_frozen_parameters():
    ours, theirs = net(), nn.Linear(2, 2)
    ours[0].requires_grad_(False)
    groups = SGD(**SGD_KNOBS).build([ours, theirs]).param_groups
    owned = {id(parameter) for group in groups for parameter in group["params"]}
    assert owned == {id(p) for module in (ours[1], ours[3], theirs) for p in module.parameters()}


def learner_of(model, **knobs):
    distiller = NoDistillation(temperature=1.0, alpha=None, ce_weight=None, kd_weight=None)
    distiller.extra = nn.Linear(1, 1, bias=False)
    return Learner(
        name="student",
        model=model,
        capture=Capture(model, [], torch.zeros(1, 3)),
        distiller=distiller,
        recipe=SGD(**SGD_KNOBS | {"lr": 0.5} | knobs),
        schedule=Constant(),
        stream=RandomStream(0, CPU),
        precision=Precision("fp32", CPU),
        deployed=model,
    )


def step_taken(learner, scale):
    """How far a step on two terms, with a gradient of norm 5·scale, moves the weights of the student and of its method."""
    owned = [*learner.model.parameters(), *learner.distiller.parameters()]
    before = [parameter.detach().clone() for parameter in owned]
    terms = {"a": 3 * scale * learner.model.weight[0, 0], "b": 4 * scale * learner.distiller.extra.weight.sum()}
    learner.descend(terms)
    moved = [(was - now.detach()).flatten() for was, now in zip(before, owned, strict=True)]
    return torch.cat(moved)


def test_the_gradient_is_clipped_to_clip_norm():
    moved = step_taken(learner_of(nn.Linear(3, 1, bias=False), clip_norm=2.0), scale=10.0)
    torch.testing.assert_close(moved, 0.5 * 2.0 * torch.tensor([0.6, 0.0, 0.0, 0.8]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("clip_norm", "scale"), [(None, 10.0), (2.0, 0.1)])
def test_a_gradient_below_clip_norm_is_not_clipped(clip_norm, scale):
    moved = step_taken(learner_of(nn.Linear(3, 1, bias=False), clip_norm=clip_norm), scale)
    torch.testing.assert_close(moved, 0.5 * scale * torch.tensor([3.0, 0.0, 0.0, 4.0]), rtol=1e-4, atol=1e-5)


def test_gradients_do_not_accumulate_over_steps():
    learner = learner_of(nn.Linear(3, 1, bias=False))
    torch.testing.assert_close(step_taken(learner, 1.0), step_taken(learner, 1.0))


def test_nesterov_without_momentum_is_refused():
    with pytest.raises(InvalidArguments) as refusal:
        SGD(**SGD_KNOBS | {"nesterov": True})
    assert str(refusal.value) == "nesterov=True: needs a momentum above 0"


@pytest.mark.parametrize("family", [Adam, AdamW])
@pytest.mark.parametrize("betas", [[], [0.9], [0.9, 0.99, 0.999]])
def test_betas_are_two_numbers(family, betas):
    with pytest.raises(InvalidArguments) as refusal:
        family(**ADAM | {"betas": betas})
    assert str(refusal.value) == f"betas={betas!r}: must be two numbers"


@pytest.mark.parametrize(
    ("family", "given", "sentence"),
    [
        (SGD, SGD_KNOBS | {"lr": 0.0}, "lr=0.0: must be above 0"),
        (SGD, SGD_KNOBS | {"momentum": 1.0}, "momentum=1.0: must be at least 0 and below 1"),
        (Adam, ADAM | {"betas": [0.9, 1.0]}, "betas=[0.9, 1.0]: each entry must be at least 0 and below 1"),
        (Adam, ADAM | {"eps": 0.0}, "eps=0.0: must be above 0"),
        (AdamW, ADAM | {"weight_decay": -0.1}, "weight_decay=-0.1: must be at least 0"),
        (AdamW, ADAM | {"clip_norm": 0}, "clip_norm=0: must be above 0 (or null)"),
        (MultiStep, {"milestones": [2, 0], "gamma": 0.1}, "milestones=[2, 0]: each entry must be above 0"),
        (PartOfCosine, {"share": 0.6}, "share=0.6: must be at least 0 and at most 0.5"),
        (Cosine, {"warmup_epochs": 0, "final_fraction": 2}, "final_fraction=2: must be at least 0 and at most 1"),
    ],
)
def test_knobs_out_of_range_are_refused(family, given, sentence):
    with pytest.raises(InvalidArguments) as refusal:
        family(**given)
    assert str(refusal.value) == sentence


def test_own_and_shared_knobs_of_a_users_optimizer_are_checked():
    # Annotations that this module inherits name types, such as Positive, that it has not imported itself.
    @dataclass(frozen=True, kw_only=True)
    class RMSprop(OptimizerRecipe):
        rho: float

        def torch_optimizer(self, groups, *, fused):
            return torch.optim.RMSprop(groups, lr=self.lr, alpha=self.rho)

    with pytest.raises(InvalidArguments) as refusal:
        RMSprop(**SHARED | {"lr": -1, "rho": "fast"})
    assert [problem.name for problem in refusal.value.problems] == ["lr", "rho"]
    assert RMSprop(**SHARED, rho=0.5).build([net()]).defaults["alpha"] == 0.5


@few
@given(st.floats(0, 50), st.integers(1, 50))
def test_a_constant_schedule_never_changes_the_rate(epoch, epochs):
    assert Constant().factor(epoch, epochs) == 1.0


@pytest.mark.parametrize(("epoch", "factor"), [(0, 1.0), (2.5, 0.5 * (1 + math.cos(math.pi / 4))), (5, 0.5), (10, 0.0)])
def test_cosine_falls_from_one_to_zero(epoch, factor):
    assert Cosine(warmup_epochs=0.0, final_fraction=0.0).factor(epoch, 10) == pytest.approx(factor, abs=1e-12)


@pytest.mark.parametrize(("epoch", "factor"), [(0, 0.0), (1, 0.5), (1.999, 0.9995), (2, 1.0), (6, 0.55), (10, 0.1), (11, 0.1)])
def test_cosine_rises_during_warm_up_and_ends_at_its_final_fraction(epoch, factor):
    assert Cosine(warmup_epochs=2.0, final_fraction=0.1).factor(epoch, 10) == pytest.approx(factor, abs=1e-12)


@few
@given(singles(0, 9.75), singles(0, 1), st.lists(st.floats(0, 10), min_size=2))
def test_cosine_never_rises_after_warm_up_and_stays_between_its_ends(warmup, final, epochs):
    schedule = Cosine(warmup_epochs=warmup, final_fraction=final)
    factors = [schedule.factor(epoch, 10) for epoch in sorted(epochs) if epoch >= warmup]
    assert all(final - 1e-9 <= factor <= 1 + 1e-9 for factor in factors)
    assert all(later <= earlier + 1e-9 for earlier, later in pairwise(factors))


@pytest.mark.parametrize("epochs", [3, 5])
def test_warm_up_may_take_the_whole_training(epochs):
    schedule = Cosine(warmup_epochs=5.0, final_fraction=0.0)
    assert schedule.factor(2.5, epochs) == 0.5
    assert schedule.factor(5.0, epochs) == 1.0


@pytest.mark.parametrize(
    ("epoch", "factor"), [(0, 1.0), (1.99, 1.0), (2, 0.5), (3.99, 0.5), (4, 0.25), (4.99, 0.25), (5, 0.125), (100, 0.125)]
)
def test_multistep_drops_once_each_milestone_is_done(epoch, factor):
    assert MultiStep(milestones=[5, 2, 4], gamma=0.5).factor(epoch, 10) == factor


def test_multistep_without_milestones_is_constant():
    assert MultiStep(milestones=[], gamma=0.5).factor(9.5, 10) == 1.0


@pytest.fixture
def switches(monkeypatch):
    """Puts PyTorch's switches back."""
    monkeypatch.delenv(WORKSPACE, raising=False)
    yield
    Precision("fp32", CUDA).set()
    os.environ.pop(WORKSPACE, None)


@pytest.mark.parametrize(("name", "convolutions"), [("tf32", True), ("bf16", False), ("fp32", False)])
def test_both_tf32_switches_of_cudnn_agree(switches, name, convolutions):
    Precision(name, CPU).set()
    assert torch.backends.cudnn.allow_tf32 == (torch.backends.cudnn.conv.fp32_precision == "tf32") == convolutions


@pytest.mark.parametrize(
    ("name", "convolutions", "products"), [("tf32", True, False), ("bf16", True, True), ("fp32", False, False)]
)
@pytest.mark.parametrize("before", ["bf16", "fp32"])
def test_cuda_may_use_tf32_outside_of_autocast_under_bf16(switches, before, name, convolutions, products):
    Precision(before, CUDA).set()
    Precision(name, CUDA).set()
    assert torch.backends.cudnn.allow_tf32 == (torch.backends.cudnn.conv.fp32_precision == "tf32") == convolutions
    assert torch.backends.cuda.matmul.allow_tf32 == (torch.backends.cuda.matmul.fp32_precision == "tf32") == products


@pytest.mark.parametrize(
    ("precision", "given", "expected"),
    [
        (Precision("tf32", CUDA, graph=True), None, ":4096:2:16:8"),
        (Precision("tf32", CUDA, graph=True), ":16:8", ":16:8"),
        (Precision("tf32", CUDA), None, None),
        (Precision("fp32", CPU, graph=True), None, None),
    ],
)
def test_workspaces_of_recorded_learners_are_bounded_unless_the_user_did(switches, monkeypatch, precision, given, expected):
    if given:
        monkeypatch.setenv(WORKSPACE, given)
    precision.set()
    assert os.environ.get(WORKSPACE) == expected


@pytest.mark.parametrize("step", [0, 1, 999, 1999])
def test_seven_sixteenths_of_a_cosine(step):
    """The learning rate of step k is that at its middle, k + 1/2 of K."""
    schedule, steps, epochs = build(compose_command(["schedule=cosine_7_16"]).schedule), 2000, 4
    factor = schedule.factor((step + 0.5) / (steps / epochs), epochs)
    assert factor == pytest.approx(math.cos(7 * math.pi * (step + 0.5) / (16 * steps)))


def test_a_part_of_a_cosine_never_is_negative():
    assert PartOfCosine(share=0.5).factor(3, 3) == pytest.approx(0) and PartOfCosine(share=0.5).factor(3, 3) >= 0


def test_only_a_student_that_is_paced_has_parameter_groups_of_its_own():
    student, others = nn.Linear(2, 3), nn.Linear(3, 1)
    recipe = SGD(lr=0.1, weight_decay=0.1, decay_biases_and_norms=False, clip_norm=None, momentum=0.0, nesterov=False)
    usual, paced = recipe.build([student, others]), recipe.build([others], paced=[student])
    assert [len(group["params"]) for group in usual.param_groups] == [2, 2]
    assert [(len(group["params"]), group.get("paced", False)) for group in paced.param_groups] == [(1, True)] * 2 + [
        (1, False)
    ] * 2
    assert [group["weight_decay"] for group in paced.param_groups] == [0.1, 0.0, 0.1, 0.0]


@pytest.mark.parametrize("nesterov", [False, True])
def test_fused_sgd_takes_parameters_whose_first_gradient_comes_later(nesterov):
    """The later one moves as it does without the other."""

    def trained(*layers):
        optimizer = SGD(**SHARED | {"weight_decay": 0.01}, momentum=0.9, nesterov=nesterov).build(layers, fused=True)
        for step in range(5):
            optimizer.zero_grad()
            active = layers if step >= 2 else layers[:-1]
            if active:
                sum(layer.weight.sum() * step for layer in active).backward()
                optimizer.step()
        return layers[-1].weight

    first, later, alone = (nn.Linear(2, 1, bias=False) for _ in range(3))
    alone.load_state_dict(later.state_dict())
    assert torch.equal(trained(first, later), trained(alone)) and not torch.equal(first.weight, later.weight)
