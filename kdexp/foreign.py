"""What a stranger's description of a network may say. Whatever else it names is neither called nor looked up."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from kdexp.arguments import first_line
from kdexp.config import arguments, nodes_within, target
from kdexp.distillation.base import Distiller


class BadResult(ValueError):
    """A result or an exported file whose network can't be built, or must not be."""


def is_key(value: Any) -> bool:
    """Whether it is a learner's key, and so no path to somewhere else."""
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{16}", value) is not None


def check_model(node: Any, source: Path) -> None:
    """Raises `BadResult` unless the node names a network's class, or a function of `kdexp.models`, and plain arguments."""
    made = _named(node, source)
    if not _is_a(nn.Module, made) and not _is_builder(made):
        raise BadResult(f"{source} is refused: its network _target_={node['_target_']!r} is no nn.Module")


def check_method(node: Any, source: Path) -> None:
    """Raises `BadResult` unless the node names a distillation method and plain arguments."""
    if not _is_a(Distiller, _named(node, source)):
        raise BadResult(f"{source} is refused: its method _target_={node['_target_']!r} is no Distiller")


def _is_a(base: type, made: Any) -> bool:
    return inspect.isclass(made) and issubclass(made, base)


def _is_builder(made: Any) -> bool:
    return inspect.isfunction(made) and made.__module__.startswith("kdexp.models.") and made.__qualname__ == made.__name__


def _named(node: Any, source: Path) -> Any:
    """What `_target_` names, imported but not called.

    The arguments are plain values, but those of our own classes, for which nobody makes anything of a node within a node but
    they themselves, may also be nodes of networks and methods, of which the same is true.
    """
    if not isinstance(node, dict) or not isinstance(node.get("_target_"), str):
        raise BadResult(f"{source} describes a network or a method without naming its class in _target_")
    inner = list(nodes_within(node).values())
    for word in _words(arguments(node), leaving=inner):
        # Hydra calls what a nested _target_ names, and OmegaConf computes what stands in ${...}, which may be one.
        if re.fullmatch("_.*_", word) or "${" in word:
            raise BadResult(f"{source} is refused: {node['_target_']} is given {word!r}, and arguments must be plain values")
    try:
        made = target(node)
    except Exception as error:  # importing a module may raise anything
        raise BadResult(f"{source} names {node['_target_']!r}, which can't be imported ({first_line(error)})") from error
    if inner and not inspect.isclass(made):
        raise BadResult(f"{source} is refused: {node['_target_']} is given a node, and arguments must be plain values")
    for part in inner:
        check_model(part, source)  # methods are modules, too
    return made


def _words(value: Any, leaving: Sequence[dict]) -> Iterator[str]:
    """Every text in a value, keys included, but for those of some of its dictionaries."""
    if isinstance(value, str):
        yield value
    elif any(value is node for node in leaving):
        return
    elif isinstance(value, dict | list):
        yield from value if isinstance(value, dict) else ()
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _words(inner, leaving)
