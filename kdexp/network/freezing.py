"""Networks of which only a part is trained for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def frozen_except(network: nn.Module, part: nn.Module) -> Iterator[None]:
    """Inside, forward passes give gradients to parameters of the `part` alone, and all other modules are in evaluation mode."""
    modes = [(module, module.training) for module in network.modules()]
    kept = set(part.parameters())
    frozen = [parameter for parameter in network.parameters() if parameter.requires_grad and parameter not in kept]
    inside = set(part.modules())
    try:
        for module, training in modes:
            module.training = training and module in inside
        for parameter in frozen:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter in frozen:
            parameter.requires_grad_(True)
