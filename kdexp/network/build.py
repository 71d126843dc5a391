"""Builds networks from configuration nodes and loads the weights that their training starts from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import nn

from kdexp.configuration.nodes import build
from kdexp.data.shape import Shape
from kdexp.device.random import RandomStream
from kdexp.errors import InvalidArguments, Problem
from kdexp.network.checkpoint.fit import Start, start_from
from kdexp.network.checkpoint.heads import classifier_name
from kdexp.network.checkpoint.prefixes import with_dot
from kdexp.network.headless import head_of, is_headless, leave_out_classifier, with_classifier
from kdexp.network.landmarks import Landmarks, find_landmarks
from kdexp.network.quick_pass import QuickPass

TAKING = ("checkpoint_prefix", "checkpoint_fresh")
"""Keys of a network's node that say what is taken of its checkpoint."""

STARTING = ("checkpoint", *TAKING, "checkpoint_rows", "frozen_backbone", "teacher", "distillation")
"""Keys of a network's node that describe its training and are not arguments of its constructor."""


class PretrainedWeights(Protocol):
    """Published weights of an architecture, as the attribute `published` of a network that can start from them."""

    def fetch(self) -> None:
        """Downloads the weights unless they are on this disk; raises `DataUnavailable`."""

    def load(self, network: nn.Module) -> None:
        """Loads the weights into the network that has them as `published`."""


def without_start(node: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a network's node without the keys in `STARTING`, and without the head that is asked for."""
    ours = (*STARTING, "head") if head_of(node) or node.get("head", ...) is None else STARTING
    return {name: value for name, value in node.items() if name not in ours}


def build_network(node: Mapping[str, Any], shape: Shape) -> nn.Module:
    """Builds the freshly initialised network of a `model`, `teacher` or `student` node; `start` loads its weights.

    If its family declares no `landmarks`, one forward pass finds them. With `head=none` it goes without its classifier.
    """
    network = build(without_start(node), **asdict(shape))
    if not isinstance(getattr(network, "landmarks", ...), Landmarks | None):
        network.landmarks = find_landmarks(network, shape.probe(device_of(network)))
    if head_of(node) == "none":
        leave_out_classifier(network, shape.num_classes)
    return network


def on_meta(node: Mapping[str, Any], shape: Shape) -> nn.Module:
    """Builds the network on the meta device, without values, in evaluation mode, and runs it once to see that it works."""
    with torch.device("meta"), torch.no_grad(), QuickPass():
        network = build_network(node, shape).eval()
        network(shape.probe("meta"))
    return network


def sketch_network(node: Mapping[str, Any], shape: Shape, shortage: Callable[[nn.Module], str] | None = None) -> nn.Module:
    """Builds the network in evaluation mode on the meta device, or on the CPU if its code reads values.

    Raises `InvalidArguments` before building on the CPU if `shortage` returns a reason why the network does not fit there.
    """
    try:
        return on_meta(node, shape)
    except Exception:  # a network that is really broken fails again below, with the error that users know
        if shortage and (why := _shortage_without_values(node, shape, shortage)):
            raise InvalidArguments([Problem("", why)]) from None
        with torch.device("cpu"), RandomStream(0, torch.device("cpu")):
            return build_network(node, shape).eval()


def _shortage_without_values(node: Mapping[str, Any], shape: Shape, shortage: Callable[[nn.Module], str]) -> str:
    """Returns `shortage` of a network that can be built without values, though it can't run without them; else empty."""
    with suppress(Exception), torch.device("meta"):
        return shortage(build(without_start(node), **asdict(shape)))
    return ""


def with_values(network: nn.Module) -> nn.Module:
    """Returns a copy in evaluation mode on the CPU; values missing on the meta device are initialised by their module, or 0."""
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
    """Returns the device of the network's parameters."""
    return next(network.parameters(), torch.empty(0)).device


def taken(node: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a network's node says about the part of its checkpoint that is taken, without keys that say nothing."""
    found = {name: node[name] for name in TAKING if node.get(name)}
    return found | ({"checkpoint_prefix": with_dot(found["checkpoint_prefix"])} if "checkpoint_prefix" in found else {})


def start_at(
    network: nn.Module, path: str | Path, node: Mapping[str, Any], classes: Sequence[str] | None = None, role: str = ""
) -> Start:
    """Loads what the network's node takes of the file of weights at `path`; raises `BadCheckpoint`."""
    part = {name.removeprefix("checkpoint_"): value for name, value in taken(node).items()}
    if not is_headless(network):
        return start_from(network, path, role=role, classes=classes, partly=True, **part)
    classifier = classifier_name(network)
    part["fresh"] = list(dict.fromkeys([*part.get("fresh", ()), classifier]))
    with with_classifier(network):
        loaded = start_from(network, path, role=role, classes=classes, partly=True, **part)
    return replace(loaded, unfit_head={classifier: "head=none"})


def start(
    network: nn.Module,
    checkpoint: str | Path | None,
    classes: Sequence[str] | None = None,
    role: str = "",
    node: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[str, ...]:
    """Loads the weights that a fresh network's training starts from: a checkpoint, or its published weights.

    `classes` are the names of the data's classes, if any; `role` decides if the checkpoint has both a teacher and a student
    that fit; the network's `node` says what is taken of the checkpoint. Returns the names of modules that keep their initial
    values.
    """
    published: PretrainedWeights | None = getattr(network, "published", None)
    if checkpoint:
        return start_at(network, checkpoint, node, classes, role).fresh
    if published:
        with with_classifier(network):
            published.load(network)
    return ()


def starts_trained(node: Mapping[str, Any]) -> bool:
    """Whether the network of a node starts from trained weights."""
    return bool(node.get("checkpoint") or node.get("weights"))
