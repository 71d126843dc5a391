"""Replaces modules of a network in a shallow copy that shares all others."""

from __future__ import annotations

import copy
from collections.abc import Mapping

from torch import nn


def graft(network: nn.Module, changes: Mapping[str, nn.Module]) -> nn.Module:
    """Returns a copy of the network with the named modules replaced; all other parameters and buffers are shared."""
    grafted = copy.copy(network)
    grafted._modules = dict(network._modules)
    inner: dict[str, dict[str, nn.Module]] = {}
    for name, module in changes.items():
        first, _, rest = name.partition(".")
        if rest:
            inner.setdefault(first, {})[rest] = module
        else:
            grafted._modules[first] = module
    for first, deeper in inner.items():
        child = network._modules[first]
        assert child is not None
        grafted._modules[first] = graft(child, deeper)
    return grafted
