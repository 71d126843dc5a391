"""A second network that a method trains next to the student, given by its node."""

from __future__ import annotations

from typing import Any

from torch import nn

from kdexp.distillation.base import Probe
from kdexp.errors import InvalidArguments, Problem
from kdexp.network.build import build_network, sketch_network


def check_node(name: str, node: dict[str, Any], fix: str) -> None:
    """Raises `InvalidArguments` with the `fix` if the argument of that name is not the node of a network."""
    if "_target_" not in node:
        raise InvalidArguments([Problem(name, f"={node!r}: names no _target_; {fix}")])


def build_second(name: str, node: dict[str, Any], probe: Probe) -> nn.Module:
    """The network, freshly initialised, without values where only shapes are checked; problems are those of the argument."""
    build = sketch_network if probe.student.logits.is_meta else build_network
    try:
        return build(node, probe.shape)
    except InvalidArguments as error:
        raise InvalidArguments(problem.under(name) for problem in error.problems) from error
