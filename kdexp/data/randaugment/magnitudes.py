"""How strongly an operation acts: the magnitudes that a YAML file lists, checked, and drawn for many images at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from kdexp.configuration.arguments import misfit, short_repr
from kdexp.data.randaugment.steps import BLENDS, NAMES
from kdexp.errors import Problem, did_you_mean, listed

LIMITS = {
    "rotate": (-360.0, 360.0),
    "shear_x": (-2.0, 2.0),
    "shear_y": (-2.0, 2.0),
    "translate_x": (-1.0, 1.0),
    "translate_y": (-1.0, 1.0),
    "posterize": (1.0, 8.0),
    "solarize": (0.0, 256.0),
    **dict.fromkeys(BLENDS, (0.0, 100.0)),
    "cutout": (0.0, 1.0),
}
"""The smallest and largest magnitude of the operations that have one. Others do the same to every image."""

FORMS = "{values: [1, 2]} for equally likely ones, {between: [1, 2]} for any between two, and may add signed: true"


def problems(name: str, magnitude: Any, path: str) -> Iterator[Problem]:
    """Yields what is wrong with the magnitudes of an operation; `path` names the argument."""
    if name not in NAMES:
        yield Problem(path, f"unknown operation;{did_you_mean(name, NAMES)} known: {listed(NAMES)}")
    elif name not in LIMITS:
        if magnitude is not None:
            yield Problem(path, f"={short_repr(magnitude)}: must be null, there is no weaker or stronger {name}")
    elif sentence := _misshapen(magnitude):
        yield Problem(path, f"={short_repr(magnitude)}: {sentence}")
    else:
        least, most = LIMITS[name]
        values = magnitude.get("values", magnitude.get("between"))
        if not all(least <= sign * value <= most for value in values for sign in _signs(magnitude)):
            yield Problem(path, f"={short_repr(magnitude)}: magnitudes of {name} lie between {least:g} and {most:g}")


def _misshapen(magnitude: Any) -> str:
    """Why a node does not say what magnitudes there are; empty if it does."""
    form = f"must be {FORMS}"
    if not isinstance(magnitude, Mapping) or ("values" in magnitude) == ("between" in magnitude):
        return form
    if not magnitude.keys() <= {"values", "between", "signed"} or not isinstance(magnitude.get("signed", False), bool):
        return form
    values = magnitude.get("values", magnitude.get("between"))
    if misfit(values, list[float]) or not values:
        return form
    if "between" in magnitude and (len(values) != 2 or values[0] > values[1]):
        return "between must be [smallest, largest]"
    return ""


def _signs(magnitude: Mapping[str, Any]) -> tuple[int, ...]:
    return (1, -1) if magnitude.get("signed") else (1,)


def at(magnitude: Mapping[str, Any] | None, chance: Tensor, negative: Tensor) -> Tensor:
    """Returns the magnitudes [n] at `chance` [n], from 0 to below 1; where `negative` and the node is signed, below zero."""
    if magnitude is None:
        return torch.zeros_like(chance)
    if "values" in magnitude:
        values = torch.tensor(magnitude["values"], dtype=chance.dtype)
        found = values[(chance * len(values)).long()]
    else:
        low, high = magnitude["between"]
        found = low + (high - low) * chance
    return torch.where(negative, -found, found) if magnitude.get("signed") else found
