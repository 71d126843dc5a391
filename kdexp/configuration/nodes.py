"""Nodes of the configuration: their class, their arguments, and the objects that are built from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hydra._internal.utils import _locate
from hydra.utils import instantiate
from omegaconf import OmegaConf


def target(node: Mapping[str, Any]) -> Any:
    """The class or function that a node's `_target_` names."""
    return _locate(node["_target_"])  # called by hydra.utils.get_object, which also logs


def arguments(node: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments that a node holds for its `_target_`."""
    plain = {name: OmegaConf.to_container(v, resolve=True) if OmegaConf.is_config(v) else v for name, v in node.items()}
    return {name: value for name, value in plain.items() if name != "_target_"}


def nodes_within(node: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The nodes among a node's arguments, by path, if its class is ours; our classes build their inner nodes themselves.

    For other classes Hydra builds inner nodes, and nodes inside an inner node belong to that node.
    """
    return dict(_nodes(arguments(node), "")) if node["_target_"].startswith("kdexp.") else {}


def _nodes(values: Any, prefix: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, value in values.items() if isinstance(values, dict) else enumerate(values):
        if isinstance(value, dict) and "_target_" in value:
            yield f"{prefix}{name}", value
        elif isinstance(value, dict | list):
            yield from _nodes(value, f"{prefix}{name}.")


def build(node: Mapping[str, Any], **given: Any) -> Any:
    """The object that a node describes; `given` are arguments that the program adds.

    Inner nodes become objects too, except for our own classes, which build them themselves.
    """
    of_node = arguments(node)
    if node["_target_"].startswith("kdexp."):
        return target(node)(**of_node, **given)  # the same as Hydra does, in a hundredth of the time
    return instantiate({"_target_": node["_target_"], **of_node}, **given, _convert_="all")
