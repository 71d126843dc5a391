"""Files of weights, read without executing anything in them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from kdexp.arguments import first_line, listed
from kdexp.checkpoint.classes import classes_of
from kdexp.checkpoint.pickles import would_import

WRAPPERS = ("model", "state_dict")
"""Under which a checkpoint may keep the weights."""


class BadCheckpoint(ValueError):
    """A checkpoint that can't be read, or that belongs to another architecture."""


@dataclass(frozen=True)
class Checkpoint:
    """The weights of a file, by the names that they have there.

    `classes` are the names of the classes in the order of the logits, where the file states them; `notes` are sentences for
    the user on how the file was read.
    """

    path: Path
    tensors: dict[str, Tensor]
    classes: list[str] | None = None
    notes: tuple[str, ...] = ()


def read_checkpoint(path: str | Path) -> Checkpoint:
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
    tensors = {name.removeprefix("module.") if wrapped else name: value for name, value in found.items()}
    return Checkpoint(path, tensors, classes_of(path))


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
