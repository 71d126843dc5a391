"""Networks from configuration nodes: built for a data set's shape, started from a checkpoint where one is named."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from kdexp.arguments import first_line, listed
from kdexp.config import build
from kdexp.device import RandomStream
from kdexp.features import Roles
from kdexp.pickles import would_import
from kdexp.roles import find_roles

WRAPPERS = ("model", "state_dict")
"""Under which a checkpoint may keep the weights."""

STARTING = ("checkpoint", "frozen_backbone", "teacher", "distillation")
"""Keys of a network's node that say how it is trained, and are no arguments of its constructor."""


class BadCheckpoint(ValueError):
    """A checkpoint that can't be read, or that belongs to another architecture."""


@dataclass(frozen=True)
class Shape:
    """What a network must know of the data."""

    num_classes: int
    in_channels: int
    image_size: int

    def probe(self, device: torch.device | str, images: int = 2) -> Tensor:
        """A batch of zeros [N, C, H, W] of this shape."""
        size = (images, self.in_channels, self.image_size, self.image_size)
        return torch.zeros(size, device=device)


class Published(Protocol):
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

    Where its family declares no `roles`, they are found by one forward pass.
    """
    network = build(without_start(node), **asdict(shape))
    if not isinstance(getattr(network, "roles", ...), Roles | None):
        network.roles = find_roles(network, shape.probe(device_of(network)))
    return network


def on_meta(node: Mapping[str, Any], shape: Shape) -> nn.Module:
    """The network in evaluation mode on the meta device, which holds no values, seen to run there."""
    with torch.device("meta"), torch.no_grad():
        network = build_network(node, shape).eval()
        network(shape.probe("meta"))
    return network


def sketch_network(node: Mapping[str, Any], shape: Shape) -> nn.Module:
    """The network on the meta device, or on the CPU if its code looks at values; in evaluation mode."""
    try:
        return on_meta(node, shape)
    except Exception:  # whatever it is: what a network can't do at all fails again here, in words that a user has seen
        with torch.device("cpu"), RandomStream(0, torch.device("cpu")):
            return build_network(node, shape).eval()


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


def start(network: nn.Module, checkpoint: str | Path | None) -> None:
    """Gives a fresh network the weights that its training starts from: a checkpoint's, or the published ones it asks for."""
    published: Published | None = getattr(network, "published", None)
    if checkpoint:
        load_checkpoint(network, checkpoint)
    elif published:
        published.load(network)


def starts_trained(node: Mapping[str, Any]) -> bool:
    """Whether the network of a node starts from trained weights."""
    return bool(node.get("checkpoint") or node.get("weights"))


def load_checkpoint(model: nn.Module, path: str | Path) -> None:
    """Loads a file of weights, strictly; raises `BadCheckpoint`."""
    fit(model, read_checkpoint(path), path)


def fit(model: nn.Module, weights: Mapping[str, Tensor], source: str | Path) -> None:
    """Loads weights that come from `source`; raises `BadCheckpoint` with the first names or shapes that differ."""
    own = model.state_dict()
    differing = [name for name in own if name not in weights] + [name for name in weights if name not in own]
    differing += [name for name in own if name in weights and own[name].shape != weights[name].shape]
    if differing:
        raise BadCheckpoint(
            f"{source} does not fit {type(model).__name__}: {len(differing)} tensors differ, first "
            + "; ".join(f"{name} (model {_shape(own, name)}, file {_shape(weights, name)})" for name in differing[:3])
            + _other_classes(model, weights)
        )
    model.load_state_dict(weights)


def _other_classes(model: nn.Module, weights: Mapping[str, Tensor]) -> str:
    roles = getattr(model, "roles", None)
    bias = f"{roles.classifier}.bias" if isinstance(roles, Roles) else ""
    own = model.state_dict()
    if bias not in own or bias not in weights or len(own[bias]) == len(weights[bias]):
        return ""
    return f"; the file tells {len(weights[bias])} classes apart, the data have {len(own[bias])}"


def _shape(tensors: Mapping[str, Tensor], name: str) -> str:
    return "×".join(map(str, tensors[name].shape)) or "scalar" if name in tensors else "none"


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of a `torch.save`d one whose loading executes no code.

    They may lie at the top or under `model` or `state_dict`; a `module.` in front of every name is dropped.
    """
    path = Path(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # torch only warns of a file that is no pickle at all
            found: Any = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except Exception as error:  # torch's unpickler raises anything on a damaged file
        raise BadCheckpoint(_why_unread(path, error)) from error
    for wrapper in WRAPPERS:
        if isinstance(found, dict) and isinstance(found.get(wrapper), dict):
            found = found[wrapper]
    if stray := _stray(found):
        raise BadCheckpoint(f"{path} holds no state dict (a mapping of names to tensors): {stray}")
    wrapped = all(name.startswith("module.") for name in found)
    return {name.removeprefix("module.") if wrapped else name: value for name, value in found.items()}


def _why_unread(path: Path, error: Exception) -> str:
    """One sentence on a file that could not be read."""
    if not path.exists():
        return f"{path} can't be read as weights: no such file"
    if path.is_dir():
        return f"{path} can't be read as weights: it is a folder"
    if not path.stat().st_size:
        return f"{path} can't be read as weights: it is empty"
    if isinstance(error, SafetensorError):
        return f"{path} can't be read as weights: it is no safetensors file, or a damaged one ({first_line(error)})"
    if names := would_import(path):
        return f"{path} is refused: loading it would run code ({listed(names[:3])}); ask for a safetensors file or a state dict"
    return f"{path} can't be read as weights: it is damaged, or not a state dict that torch.save wrote"


def _stray(found: Any) -> str:
    """What is in the way of taking `found` for a state dict, or an empty string."""
    if not isinstance(found, dict):
        return f"it is a {type(found).__name__}"
    strays = [f"{name!r} is a {type(value).__name__}" for name, value in found.items() if not isinstance(value, Tensor)]
    return f"{'; '.join(strays[:3])} (weights are looked for at the top and under {listed(WRAPPERS)})" if strays else ""
