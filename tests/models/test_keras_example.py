"""The Keras example: initial weights and optimizer are Keras's defaults."""

import math

import pytest
import torch
from experiments import compose_command

from kdexp.configuration.nodes import build
from kdexp.data.shape import Shape
from kdexp.network.build import build_network
from kdexp.validation.validator import validate

EXPERIMENT = "experiment=mnist_keras"
FANS = {
    "teacher": {"conv1": (9, 9 * 256), "conv2": (9 * 256, 9 * 512), "classifier": (7 * 7 * 512, 10)},
    "student": {"conv1": (9, 9 * 16), "conv2": (9 * 16, 9 * 32), "classifier": (7 * 7 * 32, 10)},
}
"""Fan-in and fan-out of every layer, as Glorot and Bengio count them."""


@pytest.mark.slow
@pytest.mark.parametrize(("role", "layer"), [(role, layer) for role, layers in FANS.items() for layer in layers])
def test_initial_weights_are_glorot_uniform_and_biases_zero(role, layer):
    torch.manual_seed(0)
    network = build_network(compose_command([EXPERIMENT])[role], Shape(10, 1, 28))
    weight, bias = getattr(network, layer).weight.detach(), getattr(network, layer).bias
    bound = math.sqrt(6 / sum(FANS[role][layer]))
    assert bound * (1 - 10 / weight.numel()) < weight.abs().max() <= bound
    assert weight.std() == pytest.approx(bound / math.sqrt(3), rel=4 / math.sqrt(weight.numel()))
    assert torch.equal(bias, torch.zeros_like(bias))


@pytest.mark.slow
def test_both_optimizers_have_the_epsilon_of_keras_and_other_experiments_that_of_torch():
    composed = compose_command([EXPERIMENT])
    assert [build(composed[name]).eps for name in ("optimizer", "teacher_optimizer")] == [1e-7, 1e-7]
    assert build(compose_command(["experiment=cifar10_tutorial"]).optimizer).eps == 1e-8


@pytest.mark.slow
def test_another_optimizer_can_be_chosen():
    composed = compose_command([EXPERIMENT, "optimizer=sgd"])
    assert validate(composed) == [] and composed.teacher_optimizer._target_ == "kdexp.training.optimization.SGD"
