"""Networks from configuration nodes: built for a data set's shape, started from a checkpoint where one is named."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from kdexp.configuration.nodes import build
from kdexp.data.shape import Shape
from kdexp.device.random import RandomStream
from kdexp.errors import InvalidArguments, Problem
from kdexp.network.checkpoint.fit import start_from
from kdexp.network.landmarks import Landmarks, find_landmarks
from kdexp.network.sketching import QuickBatchNorm

STARTING = ("checkpoint", "checkpoint_rows", "frozen_backbone", "teacher", "distillation")
"""Keys of a network's node that say how it is trained, and are no arguments of its constructor."""


class PretrainedWeights(Protocol):
    """Weights that an architecture's authors published: what a network that can start from them holds as `published`."""

    def fetch(self) -> None:
        """Downloads them unless they are on this disk; raises `DataUnavailable`."""

    def load(self, network: nn.Module) -> None:
        """Gives them to the network that was built to take them."""


def without_start(node: Mapping[str, Any]) -> dict[str, Any]:
    """A network's node without what says how its training starts."""
    return {name: value for name, value in node.items() if name not in STARTING}


def build_network(node: Mapping[str, Any], shape: Shape) -> nn.Module:
    """The network that a `model`, `teacher` or `student` node describes, freshly initialised: `start` gives it weights.

    Where its family declares no `landmarks`, they are found by one forward pass.
    """
    network = build(without_start(node), **asdict(shape))
    if not isinstance(getattr(network, "landmarks", ...), Landmarks | None):
        network.landmarks = find_landmarks(network, shape.probe(device_of(network)))
    return network


def on_meta(node: Mapping[str, Any], shape: Shape) -> nn.Module:
    """The network in evaluation mode on the meta device, which holds no values, seen to run there."""
    with torch.device("meta"), torch.no_grad(), QuickBatchNorm():
        network = build_network(node, shape).eval()
        network(shape.probe("meta"))
    return network


def sketch_network(node: Mapping[str, Any], shape: Shape, shortage: Callable[[nn.Module], str] | None = None) -> nn.Module:
    """The network on the meta device, or on the CPU if its code looks at values; in evaluation mode.

    Before it is built on the CPU, `shortage` says why it would not fit there: raises `InvalidArguments`.
    """
    try:
        return on_meta(node, shape)
    except Exception:  # whatever it is: what a network can't do at all fails again here, in words that a user has seen
        if shortage and (why := _before_it_runs(node, shape, shortage)):
            raise InvalidArguments([Problem("", why)]) from None
        with torch.device("cpu"), RandomStream(0, torch.device("cpu")):
            return build_network(node, shape).eval()


def _before_it_runs(node: Mapping[str, Any], shape: Shape, shortage: Callable[[nn.Module], str]) -> str:
    """What `shortage` says of a network that can't run without values, where it can at least be built without."""
    with suppress(Exception), torch.device("meta"):
        return shortage(build(without_start(node), **asdict(shape)))
    return ""


def with_values(network: nn.Module) -> nn.Module:
    """A copy in evaluation mode on the CPU; a sketch's has values as modules draw them, and 0 where none of them does."""
    copied = deepcopy(network).eval()
    if device_of(network).type != "meta":
        return copied
    with torch.no_grad(), RandomStream(0, torch.device("cpu")):
        copied = copied.to_empty(device="cpu")
        for value in (*copied.parameters(), *copied.buffers()):
            value.zero_()
        for module in copied.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
    return copied


def device_of(network: nn.Module) -> torch.device:
    """Where the network's parameters are."""
    return next(network.parameters(), torch.empty(0)).device


def start(
    network: nn.Module, checkpoint: str | Path | None, classes: Sequence[str] | None = None, role: str = ""
) -> tuple[str, ...]:
    """Gives a fresh network the weights that its training starts from: a checkpoint's, or the published ones it asks for.

    `classes` are the names of the data's, where they have any; `role` decides where the checkpoint has both a teacher and a
    student that fit. Returns the modules that keep their initial values, since the checkpoint's do not fit the data.
    """
    published: PretrainedWeights | None = getattr(network, "published", None)
    if checkpoint:
        return start_from(network, checkpoint, role=role, classes=classes, partly=True).fresh
    if published:
        published.load(network)
    return ()


def starts_trained(node: Mapping[str, Any]) -> bool:
    """Whether the network of a node starts from trained weights."""
    return bool(node.get("checkpoint") or node.get("weights"))
