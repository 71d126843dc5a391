"""Rebuilds networks from stored learners."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from kdexp.configuration.nodes import build
from kdexp.data.shape import Shape
from kdexp.deployment.bounded import as_small_as
from kdexp.device.random import RandomStream
from kdexp.distillation.base import Distiller, Probe, probe_of
from kdexp.errors import BadCheckpoint, BadResult
from kdexp.network.build import build_network
from kdexp.network.capture import Capture
from kdexp.network.checkpoint.fit import fit
from kdexp.store.stored import RESULT, StoredLearner, read_entry, under_its_key


def teacher_of(stored: StoredLearner) -> StoredLearner:
    """Returns the stored teacher of a learner; raises `BadResult` if there is none, `CorruptEntry` if it is damaged."""
    key = stored.result["spec"]["teacher"]
    if key is None:
        raise BadResult(f"{stored.path / RESULT} is damaged: its method deploys a part of the teacher, but no teacher is named")
    return under_its_key(read_entry(stored.path.parent / key))


def shapes_in(path: Path) -> dict[str, Tensor]:
    """Returns the tensors of a safetensors file on the meta device, without values; raises `BadCheckpoint`."""
    try:
        with safe_open(path, "pt") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise BadCheckpoint(f"{path} is not a safetensors file, or a damaged one") from error
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def stored_network(stored: StoredLearner, epoch: str = "last", device: str = "cpu") -> nn.Module:
    """Rebuilds the trained network with its stored weights; on `meta` without values."""
    weights = _tensors(stored, epoch, "model", device)
    model = build_bounded(stored.result["spec"]["model"], shape_of(stored), weights, device)
    fit(model, weights, stored.path)
    return model


def build_bounded(node: Mapping[str, Any], shape: Shape, weights: Mapping[str, Tensor], device: str = "cpu") -> nn.Module:
    """Builds a node's network, freshly initialised; raises `BadCheckpoint` if it is far larger than `weights`."""
    with torch.device(device), RandomStream(0, torch.device("cpu")), as_small_as(weights):
        return build_network(node, shape)


def deployed_network(stored: StoredLearner, epoch: str = "last", device: str = "cpu") -> nn.Module:
    """Rebuilds the deployed network: the trained one, or the one its method makes of it; on `meta` without values."""
    spec, model = stored.result["spec"], stored_network(stored, epoch, device)
    distiller: Distiller = build(spec["method"])
    if not distiller.deploys_more:
        return model
    teacher = deployed_network(teacher_of(stored), device=device)
    weights = _tensors(stored, epoch, "method", device)
    with torch.device(device), RandomStream(0, torch.device("cpu")), as_small_as(weights):
        distiller.setup(_probe(stored, distiller, model, teacher, device))
    fit(distiller, weights, stored.path)
    return distiller.deployed(model, teacher)


def _probe(stored: StoredLearner, distiller: Distiller, model: nn.Module, teacher: nn.Module, device: str) -> Probe:
    """Returns the probe that the method's `setup` had in training, except for the values of the labels."""
    shape = shape_of(stored)
    layers = distiller.layers(model, teacher)
    ours, theirs = (Capture(net, names, shape.probe(device)) for net, names in zip((model, teacher), layers, strict=True))
    labels = torch.zeros((), dtype=torch.long, device="cpu").expand(stored.result["train_images"])  # takes no memory
    return probe_of(ours, theirs, labels, stored.result["spec"]["batch_size"], shape)


def shape_of(stored: StoredLearner) -> Shape:
    """Returns the shape of the data that a stored learner was trained on."""
    data = stored.result["spec"]["data"]
    return Shape(data["num_classes"], data["in_channels"], data["image_size"])


def _tensors(stored: StoredLearner, epoch: str, part: str, device: str) -> dict[str, Tensor]:
    """Returns the stored tensors of the `model` or the `method` under their own names; on `meta` without values."""
    tensors = shapes_in(stored.path / f"{epoch}.safetensors") if device == "meta" else stored.tensors(epoch)
    return {name.removeprefix(f"{part}."): value for name, value in tensors.items() if name.startswith(f"{part}.")}
