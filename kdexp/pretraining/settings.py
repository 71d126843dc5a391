"""The `pretraining` node of the configuration. Does not import torch: reports read it, too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any

from kdexp.configuration.arguments import MOST, Checked, Count, Range

NONE = "kdexp.pretraining.base.NoPretraining"
"""The target of a node without a pretraining."""


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


def is_chosen(config: Mapping[str, Any]) -> bool:
    """Whether a configuration has a pretraining, which adds the row `pretrained`."""
    node = config.get("pretraining")
    return bool(node) and not (isinstance(node, Mapping) and node.get("_target_") == NONE)
