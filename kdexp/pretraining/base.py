"""What methods of pretraining share: their node in the configuration, and a training that reads no labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any

from kdexp.configuration.arguments import MOST, Checked, Count, Range, Temperature
from kdexp.data.views import View
from kdexp.distillation.base import Distiller


@dataclass(frozen=True, kw_only=True)
class PretrainingSettings(Checked):
    """The values of a `pretraining` node that are not its method's."""

    epochs: Count
    batch_size: Annotated[int, Range(at_least=2, within=(2, MOST))]
    frozen_backbone: bool
    """Whether the student that starts from the pretrained network trains its classifier alone (linear probe)."""


SETTINGS = tuple(field.name for field in fields(PretrainingSettings))
NODES = ("optimizer", "schedule")
"""Nodes inside a `pretraining` node."""


def settings_of(node: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of a `pretraining` node that `PretrainingSettings` describes."""
    return {name: value for name, value in node.items() if name in SETTINGS}


def method_of(node: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the node of the method alone."""
    return {name: value for name, value in node.items() if name not in (*SETTINGS, *NODES)}


class Pretraining(Distiller):
    """A method that trains a network without its classifier; neither a teacher nor a label is read."""

    uses_teacher = False
    own_weights = (0.0, 0.0)

    def __init__(self, *, temperature: Temperature, student_view: View | None = None):
        shared = {"alpha": None, "ce_weight": None, "kd_weight": None}
        super().__init__(temperature=temperature, student_view=student_view, **shared)


class NoPretraining(Pretraining):
    """No row starts from pretrained weights."""

    def __init__(self):
        super().__init__(temperature=1.0)


def is_chosen(config: Mapping[str, Any]) -> bool:
    """Whether a configuration has a pretraining, which adds the row `pretrained`."""
    node = config.get("pretraining")
    return bool(node) and not (isinstance(node, Mapping) and node.get("_target_") == NONE)


NONE = f"{NoPretraining.__module__}.{NoPretraining.__qualname__}"
