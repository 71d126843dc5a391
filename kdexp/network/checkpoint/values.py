"""The values of weights: read, converted to the types of a network, and looked at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kdexp.network.checkpoint.entries import Entry
from kdexp.network.checkpoint.stored_tensors import StoredTensor

STATISTICS = ("running_mean", "running_var")
"""Buffers that must be finite as parameters must."""


@dataclass(frozen=True)
class Converted:
    """Tensors as a network takes them; `types` are those that were converted, `problems` say which tensors can't be used."""

    tensors: dict[str, Tensor]
    types: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


def read_values(entries: Mapping[str, Entry], model: nn.Module) -> Converted:
    """The values of the entries, in the types that the model's tensors of these names have; raises `Unreadable`.

    Tensors that the model does not have come without values, on the meta device.
    """
    own, learned = model.state_dict(), {name for name, _ in model.named_parameters()}
    tensors, types, problems = {}, [], []
    for name, entry in entries.items():
        if name not in own:
            tensors[name] = torch.empty(entry.tensor.shape, device="meta")  # its shape is all that anybody looks at
            continue
        wanted = own[name].dtype
        if problem := _unfit(entry.tensor, wanted):
            problems.append(f"{name} is {problem}")
            continue
        tensors[name] = entry.tensor.read().to(wanted)
        if entry.tensor.dtype != wanted and wanted.is_floating_point:
            types.append(f"{_name(entry.tensor.dtype)} converted to {_name(wanted)}")
        if problem := not_finite(tensors[name], infinity=name in learned or name.rpartition(".")[2] in STATISTICS):
            problems.append(f"{name} holds {problem}")
    return Converted(tensors, tuple(dict.fromkeys(types)), tuple(problems))


def _unfit(tensor: StoredTensor, wanted: torch.dtype) -> str:
    """Why it can't become a tensor of that type, or an empty text."""
    if tensor.problem:
        return tensor.problem
    numbers = tensor.dtype.is_floating_point if wanted.is_floating_point else not tensor.dtype.is_complex
    same = tensor.dtype == wanted or (numbers and tensor.dtype != torch.bool)
    return "" if same else f"{_name(tensor.dtype)}, not {_name(wanted)}"


def not_finite(values: Tensor, *, infinity: bool = True) -> str:
    """How many NaN and infinite values there are, or an empty text."""
    if not values.is_floating_point() or values.isfinite().all():
        return ""
    counts = {"NaN": int(values.isnan().sum()), "infinity": int(values.isinf().sum()) if infinity else 0}
    return " and ".join(f"{word} ({count:,} of {values.numel():,} values)" for word, count in counts.items() if count)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
