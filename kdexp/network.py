"""Networks from configuration nodes: built for a data set's shape, started from a checkpoint where one is named."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from kdexp.arguments import first_line
from kdexp.config import build

STARTING = ("checkpoint", "frozen_backbone")
"""Keys of a network's node that say how its training starts, and are no arguments of its constructor."""


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


def build_network(node: Mapping[str, Any], shape: Shape) -> nn.Module:
    """The network that a `model`, `teacher` or `student` node describes, freshly initialised (its `checkpoint` is not read)."""
    described = {name: value for name, value in node.items() if name not in STARTING}
    return build(described, **asdict(shape))


def starts_trained(node: Mapping[str, Any]) -> bool:
    """Whether the network of a node starts from trained weights."""
    return bool(node.get("checkpoint"))


def load_checkpoint(model: nn.Module, path: str | Path) -> None:
    """Loads a file of weights, strictly; raises `BadCheckpoint` with the first names or shapes that differ."""
    weights, own = read_checkpoint(path), model.state_dict()
    differing = [name for name in own if name not in weights] + [name for name in weights if name not in own]
    differing += [name for name in own if name in weights and own[name].shape != weights[name].shape]
    if differing:
        raise BadCheckpoint(
            f"{path} does not fit {type(model).__name__}: {len(differing)} tensors differ, first "
            + "; ".join(f"{name} (model {_shape(own, name)}, file {_shape(weights, name)})" for name in differing[:3])
        )
    model.load_state_dict(weights)


def _shape(tensors: Mapping[str, Tensor], name: str) -> str:
    return "×".join(map(str, tensors[name].shape)) or "scalar" if name in tensors else "none"


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of a `torch.save`d one whose loading executes no code.

    They may lie at the top or under `model` or `state_dict`; a `module.` in front of every name is dropped.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # torch only warns of a file that is no pickle at all
            found: Any = load_file(path) if str(path).endswith(".safetensors") else torch.load(path, "cpu", weights_only=True)
    except Exception as error:  # torch's unpickler raises anything on a damaged file
        raise BadCheckpoint(f"{path} can't be read as weights: {first_line(error)}") from error
    for wrapper in ("model", "state_dict"):
        if isinstance(found, dict) and isinstance(found.get(wrapper), dict):
            found = found[wrapper]
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise BadCheckpoint(f"{path} holds no state dict (a mapping of names to tensors)")
    wrapped = all(name.startswith("module.") for name in found)
    return {name.removeprefix("module.") if wrapped else name: value for name, value in found.items()}
