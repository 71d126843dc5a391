"""Reads the values of weights, converts them to a network's types, and checks that they are finite."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kdexp.network.checkpoint.entries import Entry
from kdexp.network.checkpoint.stored_tensors import StoredTensor

STATISTICS = ("running_mean", "running_var")
"""Buffers that must be finite, like parameters."""


@dataclass(frozen=True)
class Converted:
    """Tensors in a network's types, notes on converted `types`, and `problems` of tensors that can't be used."""

    tensors: dict[str, Tensor]
    types: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


def read_values(entries: Mapping[str, Entry], model: nn.Module) -> Converted:
    """Reads the values of the entries in the types of the model's tensors with the same names; raises `Unreadable`.

    Tensors that the model does not have are returned without values, on the meta device.
    """
    own, learned = model.state_dict(), {name for name, _ in model.named_parameters()}
    tensors, types, problems = {}, [], []
    for name, entry in entries.items():
        if name not in own:
            tensors[name] = torch.empty(entry.tensor.shape, device="meta")  # only its shape is used
            continue
        dtype = own[name].dtype
        if problem := _unfit(entry.tensor, dtype):
            problems.append(f"{name} is {problem}")
            continue
        tensors[name] = entry.tensor.read().to(dtype)
        if entry.tensor.dtype != dtype and dtype.is_floating_point:
            types.append(f"{_name(entry.tensor.dtype)} converted to {_name(dtype)}")
        if problem := not_finite(tensors[name], infinity=name in learned or name.rpartition(".")[2] in STATISTICS):
            problems.append(f"{name} holds {problem}")
    return Converted(tensors, tuple(dict.fromkeys(types)), tuple(problems))


def _unfit(tensor: StoredTensor, dtype: torch.dtype) -> str:
    """Returns why a tensor can't be converted to that type, or an empty string."""
    if tensor.problem:
        return tensor.problem
    numbers = tensor.dtype.is_floating_point if dtype.is_floating_point else not tensor.dtype.is_complex
    convertible = tensor.dtype == dtype or (numbers and tensor.dtype != torch.bool)
    return "" if convertible else f"{_name(tensor.dtype)}, not {_name(dtype)}"


def not_finite(values: Tensor, *, infinity: bool = True) -> str:
    """Returns how many NaN and infinite values there are, as text; empty if there are none."""
    if not values.is_floating_point() or values.isfinite().all():
        return ""
    counts = {"NaN": int(values.isnan().sum()), "infinity": int(values.isinf().sum()) if infinity else 0}
    return " and ".join(f"{word} ({count:,} of {values.numel():,} values)" for word, count in counts.items() if count)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
