"""Weights into a network: every name and shape must agree."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from kdexp.arguments import a_few
from kdexp.checkpoint.read import BadCheckpoint, read_checkpoint
from kdexp.features import Roles


def load_checkpoint(model: nn.Module, path: str | Path, *, role: str = "") -> tuple[str, ...]:
    """Loads a file of weights and returns the sentences that a user should read about it; raises `BadCheckpoint`.

    Where a teacher and a student in the file both fit, `role` decides: teacher, or any other for the student.
    """
    checkpoint = read_checkpoint(path, model, role=role)
    fit(model, checkpoint.tensors, path)
    return checkpoint.notes


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
            + _other_names(differing, own, weights)
        )
    model.load_state_dict(weights)


def _other_classes(model: nn.Module, weights: Mapping[str, Tensor]) -> str:
    roles = getattr(model, "roles", None)
    bias = f"{roles.classifier}.bias" if isinstance(roles, Roles) else ""
    own = model.state_dict()
    if bias not in own or bias not in weights or len(own[bias]) == len(weights[bias]):
        return ""
    return f"; the file tells {len(weights[bias])} classes apart, the data have {len(own[bias])}"


def _other_names(differing: list[str], own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> str:
    """What the file's names look like, where the names that were just listed are all the model's."""
    unknown = [name for name in weights if name not in own]
    return f"; names in the file: {a_few(unknown, 3)}" if unknown and not set(differing[:3]) & set(unknown) else ""


def _shape(tensors: Mapping[str, Tensor], name: str) -> str:
    return "×".join(map(str, tensors[name].shape)) or "scalar" if name in tensors else "none"
